"""Every route by every scope and by no key. The routes come from the application itself, so a new one is covered."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute, iter_route_contexts

from project import settings
from project.app import create_app
from project.security.door import GuardedRoute, declared, needs
from project.security.scopes import Scope
from project.tests.conftest import Run
from project.tests.keys import bearing, make_key
from project.tests.service import Service

# What is served beside FastAPI's own routes: the document, and the files of the pages.
WITHOUT_DECLARATION = {"/openapi.json", "/docs-assets"}
PUBLIC = {"/hello", "/livez", "/readyz", "/docs", "/redoc"}
CONTRACT = {
    ("POST", "/claims"): Scope.CLAIMS_WRITE,
    ("POST", "/claims/batch"): Scope.CLAIMS_WRITE,
    ("GET", "/claims"): Scope.CLAIMS_READ,
    ("GET", "/claims/{claim_id}"): Scope.CLAIMS_READ,
    ("GET", "/claims/{claim_id}/events"): Scope.CLAIMS_READ,
    ("GET", "/top-provider"): Scope.PROVIDERS_READ,
    ("GET", "/dead-letters"): Scope.OPERATE,
    ("GET", "/dead-letters/{letter_id}"): Scope.OPERATE,
    ("POST", "/dead-letters/{letter_id}/redrive"): Scope.OPERATE,
    ("POST", "/dead-letters/{letter_id}/discard"): Scope.OPERATE,
    ("GET", "/metrics"): Scope.METRICS_READ,
}


def routes() -> dict[tuple[str, str], Scope | None]:
    """Method and path of every route of the application, and the scope that it declares."""
    found: dict[tuple[str, str], Scope | None] = {}
    for context in iter_route_contexts(create_app(settings.load()).routes):
        route = context.original_route
        if isinstance(route, APIRoute):
            assert isinstance(route, GuardedRoute), f"{route.path} is not behind the door"
            found |= {(method, route.path): declared(route) for method in route.methods or ()}
        else:
            assert getattr(route, "path", None) in WITHOUT_DECLARATION
    return found


@pytest.fixture(scope="module")
def every_route(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Scope | None]:
    """The routes, of an application that is never started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(tmp_path_factory.mktemp("data")))
        return routes()


def test_every_route_declares_what_the_contract_says(every_route: dict[tuple[str, str], Scope | None]) -> None:
    declared_scopes = {route: scope for route, scope in every_route.items() if scope is not None}
    assert declared_scopes == CONTRACT
    assert {path for (_, path), scope in every_route.items() if scope is None} == PUBLIC


def test_a_route_without_a_declaration_cannot_be_added() -> None:
    async def handler() -> None: ...

    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(TypeError, match="/new declares neither"):
        router.add_api_route("/new", handler)
    router.add_api_route("/new", handler, **needs(Scope.OPERATE))


@pytest.fixture
def keyed(serve: Run, database_url: str) -> Iterator[tuple[Service, dict[Scope, str]]]:
    """A service, and a key of each scope alone."""
    made = {scope: make_key(database_url, f"only-{scope.replace(':', '-')}", scope)["key"] for scope in Scope}
    with serve() as service:
        yield service, made


def test_each_route_is_open_to_its_scope_alone(
    keyed: tuple[Service, dict[Scope, str]], every_route: dict[tuple[str, str], Scope | None]
) -> None:
    service, made = keyed
    for (method, path), needed in every_route.items():
        url = path.format(claim_id=uuid4(), letter_id=uuid4())
        for scope, key in made.items():
            status = service.http.request(method, url, headers=bearing(key)).status_code
            by_x_api_key = service.http.request(method, url, headers={"X-API-Key": key}).status_code
            allowed = needed in (None, scope)
            assert (status in (401, 403)) is not allowed, (method, path, scope, status)
            assert status == by_x_api_key
            assert allowed or status == 403
        without = service.http.request(method, url)
        assert (without.status_code == 401) is (needed is not None), (method, path)


def test_a_refusal_is_a_problem_that_says_what_to_do(keyed: tuple[Service, dict[Scope, str]]) -> None:
    service, made = keyed
    missing = service.http.get("/claims")
    assert (missing.status_code, missing.headers["content-type"]) == (401, "application/problem+json")
    assert missing.headers["www-authenticate"] == 'Bearer realm="claim_process"'
    narrow = service.http.get("/claims", headers=bearing(made[Scope.OPERATE]))
    assert narrow.json()["type"] == "/problems/insufficient-scope"
    assert 'error="insufficient_scope", scope="claims:read"' in narrow.headers["www-authenticate"]
    unknown = service.http.get("/claims", headers=bearing("cpk_wrong"))
    assert (unknown.status_code, 'error="invalid_token"' in unknown.headers["www-authenticate"]) == (401, True)
    assert [missing.json()["status"], narrow.json()["status"], unknown.json()["status"]] == [401, 403, 401]


def test_nothing_of_a_body_is_read_for_who_may_not_send_it(keyed: tuple[Service, dict[Scope, str]]) -> None:
    service, made = keyed
    for headers, status in (({}, 401), (bearing(made[Scope.CLAIMS_READ]), 403)):
        answer = service.http.post("/claims", content=b"{", headers={"Content-Type": "text/nonsense", **headers})
        assert answer.status_code == status
    assert service.http.get("/claims/no-uuid").status_code == 401
    assert service.http.get("/claims?limit=x").status_code == 401


def test_the_document_tells_the_scope_of_each_operation(
    keyed: tuple[Service, dict[Scope, str]], tmp_path: Path
) -> None:
    service, _ = keyed
    document = service.http.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "api_key"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            needed = CONTRACT.get((method.upper(), path))
            assert operation["security"] == ([{"bearer": [needed]}, {"api_key": [needed]}] if needed else [])
            assert ({"401", "403"} <= set(operation["responses"])) is (needed is not None), path
