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
        serving = f"serving: API {base}  docs {base}/docs  metrics {base}/metrics  (Ctrl-C stops all of it)"
        raise typer.Exit(supervisor.run(chosen, _children(chosen), serving))


def _children(chosen: settings.Settings) -> list[supervisor.Child]:
    """The service's processes; the stand-in for payments among them when there is no PAYMENTS_URL."""
    metrics_url = chosen.server.url_of(chosen.metrics_port)
    children = [
        supervisor.Child("web", _module("web"), f"{chosen.server.url}/readyz"),
        supervisor.Child("worker", _module("worker"), f"{metrics_url}/livez", port_setting="METRICS_PORT"),
    ]
    if chosen.payments.payments_url is not None:
        supervisor.say("payments: yours, at PAYMENTS_URL")
        return children
    supervisor.say(f"PAYMENTS_URL is not set: a stand-in pays, at {chosen.payments_url} (PUT /behaviour)")
    stand_in = supervisor.Child(
        "payments stand-in",
        _module("payments.stand_in"),
        f"{chosen.payments_url}/livez",
        port_setting="PAYMENTS_PORT",
        serves_others=True,
    )
    return [stand_in, *children]


@app.command()
@_one_line_on_failure
def web() -> None:
    """Runs the web processes alone, against DATABASE_URL and REDIS_URL or the running engines of DATA_DIR."""
    _become("web")


@app.command()
@_one_line_on_failure
def worker() -> None:
    """Runs a worker alone: pays, reverses, publishes events, keeps house."""
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # that of the web processes; a worker is one process
    _become("worker")


@app.command()
@_one_line_on_failure
def payments() -> None:
    """Runs the stand-in payments service alone, on PAYMENTS_PORT."""
    _become("payments.stand_in")


@app.command()
@_one_line_on_failure
def migrate() -> None:
    """Brings the database's tables up to this build."""
    _become("schema")


def _operator_command(name: str, does: str, *module: str) -> None:
    """Adds a command whose arguments `project.commands` understands, or a module of its own."""

    @app.command(
        name,
        help=does,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    @_one_line_on_failure
    def command(context: typer.Context) -> None:
        _become(*(module or ("commands", name)), *context.args)


_operator_command("dead-letters", "Lists what payments refused, shows it, sends it again, gives it up.")
_operator_command("doctor", "Says whether the books balance, payments agrees and nothing is stuck.")
_operator_command("announce", "Has events published again.")
_operator_command("import", "Takes in claims from CSV and NDJSON files.", "imports.commands")
_operator_command("keys", "Makes, lists and revokes API keys.")


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"project.{name}"]


def _become(module: str, *arguments: str) -> None:
    """Goes on as another module of ours, which then has imported only what it needs."""
    sys.stdout.flush()
    os.execv(sys.executable, [*_module(module), *arguments])  # noqa: S606  our own interpreter
