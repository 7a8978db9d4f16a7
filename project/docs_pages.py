"""GET /docs, /redoc and their assets, served by ourselves: the pages work without the internet. Made by `app`."""

import base64
import re
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from project.openapi import ProblemBody, as_problems
from project.security.door import PUBLIC, SECURITY_SCHEMES
from project.security.headers import page_policy

# The wheel `fastapi-offline` is taken for the files that it carries; none of its code is run.
CARRIER = "fastapi_offline"
ASSETS = "/docs-assets"
NO_ICON = "data:,"


class WholeFiles(StaticFiles):
    """Files that are sent whole whatever Range is asked for: one that cannot be met is refused in plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A server may ignore Range (RFC 9110, 14.2)."""
        headers = [header for header in scope["headers"] if header[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


def add_docs(app: FastAPI) -> None:
    """Adds the pages, and to the document the schema that every error answer refers to."""
    app.mount(ASSETS, WholeFiles(directory=_asset_folder()), name="docs-assets")

    swagger = _under_policy(
        get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{app.title}: API",
            swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}/swagger-ui.css",
            swagger_favicon_url=NO_ICON,
        )
    )
    reference = _under_policy(
        get_redoc_html(
            openapi_url="/openapi.json",
            title=f"{app.title}: API reference",
            redoc_js_url=f"{ASSETS}/redoc.standalone.js",
            redoc_favicon_url=NO_ICON,
            with_google_fonts=False,
        )
    )

    @app.get("/docs", include_in_schema=False, **PUBLIC)
    async def docs() -> HTMLResponse:
        return swagger

    @app.get("/redoc", include_in_schema=False, **PUBLIC)
    async def redoc() -> HTMLResponse:
        return reference

    generate = app.openapi

    def with_problem_schema() -> dict[str, Any]:
        document = generate()
        schema = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).setdefault("ProblemBody", schema)
        components["securitySchemes"] = SECURITY_SCHEMES
        as_problems(document)
        return document

    app.openapi = with_problem_schema  # type: ignore[method-assign]


def _under_policy(page: HTMLResponse) -> HTMLResponse:
    """The page with a policy that lets it run its own inline scripts and no others."""
    scripts = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    hashes = [f"sha256-{base64.b64encode(sha256(script).digest()).decode()}" for script in scripts]
    page.headers["Content-Security-Policy"] = page_policy(*hashes)
    return page


def _asset_folder() -> Path:
    found = find_spec(CARRIER)
    assert found is not None and found.origin is not None, "fastapi-offline is pinned in requirements.txt"
    return Path(found.origin).parent / "static"
