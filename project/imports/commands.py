"""`python -m project import`: claims from files, straight into the database; it needs no running web process. `cli`
becomes this module, which has less to import than the other commands.
"""

import asyncio
import getpass
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from project import db, settings, wire
from project.errors import ServiceError
from project.imports.files import Format
from project.imports.progress import shown
from project.imports.run import DatabaseGone, Summary, Wanted, import_file
from project.security.naming import checked_name

SOME_FAILED, SOME_REFUSED, STOPPED = 1, 3, 128  # 2 is a wrong use of the command; a signal's number is added to 128
STATEMENT_TIMEOUT_S = 60.0  # ends what hangs; a chunk takes less than a second

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Files = Annotated[list[Path], typer.Argument(metavar="FILE", help="CSV or NDJSON, gzip or not")]
Client = Annotated[str, typer.Option(help="whose claims they are: the name of an API key")]
Kind = Annotated[Format | None, typer.Option("--format", help="when neither name nor contents tell it right")]
Refused = Annotated[
    Path | None,
    typer.Option(help="where refused claims go, for one FILE; else FILE.refused.ndjson", show_default=False),
]
Again = Annotated[bool, typer.Option("--again", help="once more from the top; if interrupted, it goes on")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, a row for each file")]


@app.command()
def import_files(
    files: Files,
    client: Client = "local",
    kind: Kind = None,
    refused: Refused = None,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Imports claims from files; what was interrupted goes on where it was.

    Exit codes: 0 all claims were accepted, 3 some were refused, 1 something could not be done, 130 or 143 interrupted.
    """
    if refused is not None and len(files) > 1:
        raise ServiceError("--refused is for one FILE")
    name = checked_name(client)
    actor = f"cli:{getpass.getuser()}"
    wanted = Wanted(name, actor, kind, refused and refused.absolute(), again)
    code = asyncio.run(_import_all(files, wanted, settings.load(), as_json=as_json))
    if code:
        raise typer.Exit(code)


async def _import_all(paths: list[Path], wanted: Wanted, chosen: settings.Settings, *, as_json: bool) -> int:
    """One file after the other, also after one that cannot be imported; the exit code."""
    stopped = _on_signals()
    failed = refused = False
    for path in paths:
        try:
            summary, seconds = await _import_one(path, wanted, chosen, stopped)
        except ServiceError as error:
            typer.echo(f"claim_process: {error}", err=True)
            failed = True
            if isinstance(error, DatabaseGone):
                break
        else:
            _say(summary, seconds, as_json=as_json)
            refused = refused or summary.run.refused > 0
            if not summary.finished:
                typer.echo(f"claim_process: {path}: interrupted; the same command goes on from there", err=True)
        if stopped:
            return STOPPED + stopped[0]
    return SOME_FAILED if failed else SOME_REFUSED if refused else 0


def _on_signals() -> list[int]:
    """Where the first signal is noted that asks for an end; a second one ends the process at once."""
    noted: list[int] = []
    loop = asyncio.get_running_loop()

    def note(number: signal.Signals) -> None:
        noted.append(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, note, each)
    return noted


async def _import_one(
    path: Path, wanted: Wanted, chosen: settings.Settings, stopped: list[int]
) -> tuple[Summary, float]:
    url = db.database_url(chosen.storage)
    began = time.monotonic()
    with shown(path) as tell:
        summary = await import_file(
            lambda: db.connect_patiently(url, STATEMENT_TIMEOUT_S),
            path,
            wanted,
            chosen.intake,
            stop=lambda: bool(stopped),
            tell=tell,
        )
    return summary, time.monotonic() - began


def _say(summary: Summary, seconds: float, *, as_json: bool) -> None:
    facts = _facts(summary, seconds)
    if as_json:
        typer.echo(wire.encode(facts).decode())
        return
    run = summary.run
    words = "imported" if summary.finished else "so far"
    typer.echo(f"{summary.path}: {words} {run.accepted:,} claims of {run.lines:,} lines, net fee {run.net_fee}")
    if run.refused:
        typer.echo(f"  {run.refused:,} claims were refused: {run.refused_path}")
    typer.echo(f"  {seconds:.1f} s, {facts['lines_per_second']:,} lines/s{', resumed' if summary.resumed else ''}")


def _facts(summary: Summary, seconds: float) -> dict[str, Any]:
    run = summary.run
    return {
        "file": str(summary.path),
        "run": str(run.id),
        "client": run.client,
        "finished": summary.finished,
        "resumed": summary.resumed,
        "accepted": run.accepted,
        "refused": run.refused,
        "lines": run.lines,
        "net_fee": run.net_fee,
        "seconds": round(seconds, 3),
        "lines_per_second": round(summary.new_lines / max(seconds, 0.001)),
        "refused_file": str(run.refused_path) if run.refused else None,
    }


def main() -> None:
    """Runs the command."""
    # A connection that dies in COPY leaves a future that nobody asks, which asyncio would tell, at length.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    try:
        app(prog_name="python -m project import")
    except ServiceError as error:
        sys.exit(f"claim_process: {error}")
    except Exception as error:
        if not db.is_away(error):
            raise
        sys.exit(f"claim_process: the database cannot be reached, or is not migrated ({type(error).__name__})")


if __name__ == "__main__":
    main()
