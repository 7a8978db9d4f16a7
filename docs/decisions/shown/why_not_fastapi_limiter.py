"""Shows why fastapi-limiter is not used. Needs an environment of its own:

python3 -m venv /tmp/limiter
/tmp/limiter/bin/pip install fastapi==0.165.0 fastapi-limiter==0.2.0 httpx2
/tmp/limiter/bin/python docs/decisions/shown/why_not_fastapi_limiter.py
"""

from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient
from fastapi_limiter.depends import RateLimiter
from pyrate_limiter import Duration, Limiter, Rate

ten_a_minute = Depends(RateLimiter(limiter=Limiter(Rate(10, Duration.MINUTE))))


def app_with_a_router() -> FastAPI:
    """The usual way: a limited route in a router that the application includes."""
    router = APIRouter()
    router.add_api_route("/top-provider", lambda: [], dependencies=[ten_a_minute])
    app = FastAPI()
    app.include_router(router)
    return app


def app_without_a_router() -> FastAPI:
    """The same route on the application itself."""
    app = FastAPI()
    app.add_api_route("/top-provider", lambda: [], dependencies=[ten_a_minute])
    return app


if __name__ == "__main__":
    try:
        print(TestClient(app_with_a_router()).get("/top-provider").status_code)
    except AttributeError as error:
        print("with include_router: 500,", error)
    client = TestClient(app_without_a_router())
    codes = [
        client.get("/top-provider", headers={"X-Forwarded-For": f"10.0.0.{number}"}).status_code for number in range(12)
    ]
    print("12 clients (told apart by X-Forwarded-For, as it does), one request each:", codes)
