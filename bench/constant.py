"""`python -m bench.constant PORT ANSWERS`: FastAPI routes that do nothing: they read the body and give the same object.

What FastAPI and uvicorn cost by themselves, the usual way (no model of the answer), with uvicorn's options of the
service, one process. ANSWERS is a file with a JSON object: from names of routes to answers of the service, so that the
sizes are the same.
"""

import json
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request


def create_app(answers: dict[str, Any]) -> FastAPI:
    """POST and GET of each name give its answer."""
    app = FastAPI()
    for name, answer in answers.items():
        _add(app, f"/{name}", answer)
    return app


def _add(app: FastAPI, path: str, answer: Any) -> None:
    @app.post(path, status_code=201, response_model=None)
    async def posted(request: Request) -> Any:
        await request.body()
        return answer

    @app.get(path, response_model=None)
    async def asked() -> Any:
        return answer


if __name__ == "__main__":
    uvicorn.run(
        create_app(json.loads(Path(sys.argv[2]).read_text())),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
