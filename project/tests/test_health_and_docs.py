"""/hello, the probes, and the documentation's pages and document."""

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from project.tests.service import Service, free_port, running


def test_hello_says_hello(service: Service) -> None:
    answer = service.http.get("/hello")
    assert (answer.status_code, answer.text) == (200, '{"ping":"hello!"}')


def test_a_live_and_migrated_service_is_ready(service: Service) -> None:
    assert service.http.get("/livez").status_code == 200
    assert service.http.get("/readyz").status_code == 200


def live(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/livez").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize("detail", ["not migrated", "cannot be reached"])
def test_an_unmigrated_or_absent_database_is_live_but_not_ready(
    detail: str, empty_database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"postgresql://app@127.0.0.1:{free_port()}/claims"
    url = empty_database_url if detail == "not migrated" else nowhere
    monkeypatch.setattr(Service, "ready", lambda service: live(service.url))
    with running(tmp_path, {"DATABASE_URL": url, "REDIS_URL": redis_url}) as service:
        for path in ("/readyz", "/claims", "/top-provider"):
            answer = service.http.get(path)
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert "retry-after" in answer.headers
        assert service.submit([{}]).status_code == 503  # whom to let in is not known either
        assert "Traceback" not in service.log.read_text()


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_the_pages_load_nothing_from_elsewhere(service: Service, page: str) -> None:
    answer = service.http.get(page)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert [url for url in loaded if not url.startswith(("/", "data:"))] == []
    for url in loaded:
        if url.startswith("/"):
            assert service.http.get(url).status_code == 200
    assert "googleapis" not in answer.text


@pytest.mark.parametrize(
    "asked", ["bytes=0-9", "bytes=99999999-", "bytes=5-2", "bytes=-", "lines", "bytes=\u00b2-\u00b3"]
)
def test_an_asset_is_sent_whole_whatever_range_is_asked_for(service: Service, asked: str) -> None:
    path = "/docs-assets/swagger-ui.css"
    answer = service.http.get(path, headers={b"Range": asked.encode("latin-1")})
    assert (answer.status_code, answer.content) == (200, service.http.get(path).content)


def test_the_document_describes_every_route_with_its_errors(service: Service) -> None:
    document: dict[str, Any] = service.http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/claims",
        "/claims/batch",
        "/claims/{claim_id}",
        "/claims/{claim_id}/events",
        "/dead-letters",
        "/dead-letters/{letter_id}",
        "/dead-letters/{letter_id}/redrive",
        "/dead-letters/{letter_id}/discard",
        "/top-provider",
        "/metrics",
        "/hello",
        "/livez",
        "/readyz",
    }
    post = document["paths"]["/claims"]["post"]
    assert set(post["requestBody"]["content"]) == {"application/json", "text/csv"}
    assert {"201", "400", "409", "413", "415", "422", "503"} <= set(post["responses"])
    assert "Location" in post["responses"]["201"]["headers"]
    assert "410" in document["paths"]["/claims/{claim_id}"]["get"]["responses"]
    assert {"202", "404", "409"} <= set(document["paths"]["/dead-letters/{letter_id}/redrive"]["post"]["responses"])
    refs = re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', service.http.get("/openapi.json").text)
    assert set(refs) <= set(document["components"]["schemas"])


def test_the_documents_examples_are_accepted(service: Service) -> None:
    content = service.http.get("/openapi.json").json()["paths"]["/claims"]["post"]["requestBody"]["content"]
    for example in content["application/json"]["examples"].values():
        assert service.submit(example["value"]).status_code == 201
    answer = service.http.post("/claims", content=content["text/csv"]["example"], headers={"Content-Type": "text/csv"})
    assert answer.status_code == 201
