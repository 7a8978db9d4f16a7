"""The command line, `python -m project`: alone it runs everything, with a command one part of it.

Every expected failure is one line on standard error and exit code 1. This module imports nothing heavy, so that the
processes which do are started at once.
"""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import typer

from project import settings
from project.engines import supervisor
from project.errors import ServiceError

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def _one_line_on_failure(command: Callable[P, R]) -> Callable[P, R]:
    @wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return command(*arguments, **options)
        except ServiceError as error:
            typer.echo(f"claim_process: {error}", err=True)
            raise typer.Exit(1) from None

    return run


@app.callback(invoke_without_command=True)
@_one_line_on_failure
def run(context: typer.Context) -> None:
    """Runs the whole service in the foreground: engines, migrations, web. Ctrl-C stops all of it."""
    if context.invoked_subcommand is None:
        chosen = settings.load()
        base = chosen.server.url
        children = [supervisor.Child("web", [sys.executable, "-m", "project.web"], f"{base}/readyz")]
        serving = f"serving: API {base}  docs {base}/docs  metrics {base}/metrics  (Ctrl-C stops all of it)"
        raise typer.Exit(supervisor.run(chosen, children, serving))


@app.command()
@_one_line_on_failure
def web() -> None:
    """Runs the web processes alone, against DATABASE_URL and REDIS_URL or the running engines of DATA_DIR."""
    _become("project.web")


@app.command()
@_one_line_on_failure
def migrate() -> None:
    """Brings the database's tables up to this build."""
    _become("project.schema")


def _become(module: str) -> None:
    """Goes on as another module of ours, which then has imported only what it needs."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module])  # noqa: S606  our own interpreter
