"""The service against its own OpenAPI document, by schemathesis. `make soak`: with many more examples.

What the document says is allowed, must be, and the other way around; each answer must have a status, a media type,
headers and a body that the document names. Statuses are taken from there, so a new one needs no change here.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import asyncpg

from project import audit
from project.tests.saga import performing
from project.tests.service import ROOT, Service, environment, line

EXAMPLES = os.environ.get("CONTRACT_EXAMPLES", "20")
# Without keys this machine needs none, so there is no authentication that could be ignored.
NOT_CHECKED = "ignored_auth,object_level_authorization"
# A schema cannot say all of the rules of a claim, nor that a number or a key is taken. A wrong row of a batch is told in
# its own row.
CONFIGURATION = f"""
hooks = "{ROOT / "project" / "tests" / "ndjson.py"}"

[[operations]]
include-name = "POST /claims"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "409", "413", "415", "422"]

[[operations]]
include-name = "POST /claims/batch"
checks.negative_data_rejection.expected-statuses = ["200", "400", "413", "415", "422"]
"""


def refuse_a_few(service: Service, folder: Path, redis_url: str) -> None:
    """Claims that end as dead letters, so that there are some to look at."""
    with performing(folder, service.database_url, redis_url) as saga:
        saga.payments.behave(refuse_rate=1)
        saga.worker()
        for _ in range(3):
            claim = service.accepted([line()])
            saga.await_event(UUID(claim["id"]), "reversed")


def test_the_service_does_what_its_openapi_document_says(service: Service, redis_url: str, tmp_path: Path) -> None:
    refuse_a_few(service, tmp_path / "saga", redis_url)
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    options = ["--no-color", "--continue-on-failure", "--max-examples", EXAMPLES, "--max-response-time", "5"]
    # Of batches that break the schema in one place, many break it nowhere and are drawn again, now and then too many for
    # the generator's taste; it draws on, and asks as much.
    options += ["--suppress-health-check", "filter_too_much"]
    checks = ["--checks", "all", "--exclude-checks", NOT_CHECKED, "--generation-with-security-parameters", "false"]
    argv = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json", *options, *checks]
    done = subprocess.run(argv, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    paths = service.http.get("/openapi.json").json()["paths"]
    assert f"Tested: {sum(map(len, paths.values()))}\n" in done.stdout
    assert asyncio.run(difference(service.database_url)) == 0
    assert "Traceback" not in service.log.read_text()


async def difference(database_url: str) -> object:
    """How far the books are from balancing."""
    connection = await asyncpg.connect(database_url)
    try:
        return (await audit.books(connection)).difference
    finally:
        await connection.close()


def test_every_error_in_the_document_is_a_problem(service: Service) -> None:
    for path, operations in service.http.get("/openapi.json").json()["paths"].items():
        for operation in operations.values():
            errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
            assert all(list(answer["content"]) == ["application/problem+json"] for answer in errors.values()), path
