"""What every answer tells browsers and caches: nothing of it is a page, a frame, or to be kept. Installed by `app`.

A route that needs more for its own page sends its own Content-Security-Policy or Cache-Control, which then stays.
OWASP's HTTP Headers Cheat Sheet and REST Security Cheat Sheet are the source of the list.
"""

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CSP = b"content-security-policy"
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
_NOTHING = (CSP, b"default-src 'none'; frame-ancestors 'none'")
_NOT_KEPT = (b"cache-control", b"no-store")
_TLS_ONLY = (b"strict-transport-security", b"max-age=31536000")


def page_policy(*script_hashes: str) -> str:
    """The policy of a page of our own: scripts from here or of these hashes, nothing from elsewhere.

    Styles may be inline, since both documentation pages make them in the browser.
    """
    scripts = " ".join(["'self'", *(f"'{one}'" for one in script_hashes)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; font-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


class SecurityHeaders:
    """Adds the headers to every answer. Plain ASGI, since it is on the hot path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, and its answer with the headers."""

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _secured(list(message.get("headers", ())), scope.get("scheme"))
            await send(message)

        await self.app(scope, receive, send_secured)


def _secured(headers: list[tuple[bytes, bytes]], scheme: Any) -> list[tuple[bytes, bytes]]:
    names = {name for name, _ in headers}
    headers += _ALWAYS
    if CSP not in names:
        headers.append(_NOTHING)
    if b"cache-control" not in names and b"etag" not in names:  # what has an ETag is one of our own static files
        headers.append(_NOT_KEPT)
    if scheme == "https":
        headers.append(_TLS_ONLY)
    return headers
