"""Who a request comes from. Called by every route that stores, lists or limits.

Until API keys exist there is one client, `local`, and the service listens on loopback addresses only (`settings`).
"""

from starlette.requests import Request

LOCAL = "local"


def client_of(request: Request) -> str:
    """The client whose claims these are."""
    return LOCAL


def limiter_identity(request: Request) -> str:
    """Whom the rate limiter counts: the peer's address as the kernel gave it, never a header."""
    return request.client.host if request.client else "unknown"
