"""`python -m bench.constant PORT ANSWER`: FastAPI routes that do nothing: they read the body and give the same object.

What FastAPI and uvicorn cost by themselves, with uvicorn's options of the service, one process. ANSWER is a file with
the JSON object (an answer of the service, so that the sizes are the same).
"""

import json
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request


def create_app(answer: Any) -> FastAPI:
    """POST / and GET / give `answer`."""
    app = FastAPI()

    @app.post("/", status_code=201)
    async def posted(request: Request) -> Any:
        await request.body()
        return answer

    @app.get("/")
    async def asked() -> Any:
        return answer

    return app


if __name__ == "__main__":
    uvicorn.run(
        create_app(json.loads(Path(sys.argv[2]).read_text())),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
