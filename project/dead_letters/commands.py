"""`python -m project dead-letters`: the queue on the command line, for one letter, a filter, or all. Called by
`project.commands`. It works on the database itself, so it needs no running web process.
"""

import asyncio
import getpass
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from project import db, settings, wire
from project.bell import RING
from project.dead_letters import queue, routes
from project.dead_letters.models import DeadLetter
from project.dead_letters.queue import Filter
from project.dead_letters.routes import listed, shown
from project.errors import Problem, ServiceError, SettingsError
from project.ids import moment

PAGE = 200

app = typer.Typer(help="What payments refused: look at it, send it again, give it up.", no_args_is_help=True)

Change = Callable[[Any, UUID, str], Awaitable[object]]

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
State = Annotated[routes.State | None, typer.Option(help="of the letter")]
Reason = Annotated[routes.Reason | None, typer.Option(help="why it was reversed")]
Since = Annotated[str | None, typer.Option(help="made at or after this RFC 3339 time")]
Until = Annotated[str | None, typer.Option(help="made before this RFC 3339 time")]
Ids = Annotated[list[UUID] | None, typer.Argument(help="ids of letters")]
All = Annotated[bool, typer.Option("--all", help="every letter that can be")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="only say which")]
PerSecond = Annotated[float, typer.Option("--rate", min=0.1, help="letters a second")]


@app.command("list")
def list_letters(
    state: State = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 50,
    as_json: Json = False,
) -> None:
    """Lists letters, newest first."""
    found = asyncio.run(_all(Filter(state, reason, moment(since), moment(until)), limit))
    if as_json:
        typer.echo(wire.encode({"items": [listed(letter) for letter in found]}).decode())
        return
    table = Table("id", "claim", "no", "reason", "detail", "net fee", "state", "made")
    for letter in found:
        told = listed(letter)
        names = ("id", "claim_id", "redrive_no", "reason", "detail", "net_fee", "state", "created_at")
        table.add_row(*(str(told[name]) for name in names))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command()
def show(letter_id: UUID, as_json: Json = False) -> None:
    """Shows one letter with its claim; subscriber ids are masked."""
    letter = asyncio.run(_one(letter_id))
    if letter is None:
        raise ServiceError("there is no such dead letter")
    told = shown(letter)
    if as_json:
        typer.echo(wire.encode(told).decode())
        return
    claim = told.pop("claim")
    for name, value in told.items():
        typer.echo(f"{name:12} {'' if value is None else value}")
    for line in (claim or {}).get("lines", ()):
        typer.echo("line         " + " ".join(str(value) for value in line.values()))


@app.command()
def redrive(
    ids: Ids = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,
    dry_run: DryRun = False,
    rate: PerSecond = 50.0,
    as_json: Json = False,
) -> None:
    """Sends reversed claims again, each under its own id."""
    wanted = _chosen(ids, Filter("reversed", reason, moment(since), moment(until)), everything)
    _change("redriven", queue.redrive, wanted, ids, dry_run=dry_run, rate=rate, as_json=as_json)


@app.command()
def discard(
    ids: Ids = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,
    dry_run: DryRun = False,
    rate: PerSecond = 50.0,
    as_json: Json = False,
) -> None:
    """Gives reversed claims up for good and erases them."""
    wanted = _chosen(ids, Filter("reversed", reason, moment(since), moment(until)), everything)
    _change("discarded", queue.discard, wanted, ids, dry_run=dry_run, rate=rate, as_json=as_json)


def _chosen(ids: Sequence[UUID] | None, wanted: Filter, everything: bool) -> Filter | None:
    """The filter to go by; None when ids were given. SettingsError when nothing, or both, say which."""
    filtered = bool(wanted.reason or wanted.since or wanted.until or everything)
    if bool(ids) == filtered:
        raise SettingsError("say which letters: by ids, or by --reason, --since, --until or --all")
    return None if ids else wanted


def _change(
    done: str,
    change: Change,
    wanted: Filter | None,
    ids: Sequence[UUID] | None,
    *,
    dry_run: bool,
    rate: float,
    as_json: bool,
) -> None:
    """Changes the letters one by one, each in its own transaction; exit code 1 if some could not be."""
    chosen = list(ids or ()) if wanted is None else [letter.id for letter in asyncio.run(_all(wanted, None))]
    if dry_run:
        _say(as_json, {"dry_run": True, "letters": [str(letter_id) for letter_id in chosen]}, f"letters: {len(chosen)}")
        return
    failures = asyncio.run(_each(change, chosen, rate))
    count = len(chosen) - len(failures)
    _say(as_json, {done: count, "failed": failures}, f"{count} {done}, {len(failures)} not")
    for letter_id, why in failures.items() if not as_json else ():
        typer.echo(f"  {letter_id}: {why}", err=True)
    if failures:
        raise typer.Exit(1)


def _say(as_json: bool, facts: dict[str, object], words: str) -> None:
    typer.echo(wire.encode(facts).decode() if as_json else words)


async def _each(change: Change, chosen: Sequence[UUID], rate: float) -> dict[str, str]:
    """What could not be changed, and why. At most `rate` a second."""
    failures: dict[str, str] = {}
    connection = await db.connect(db.database_url(settings.load().storage))
    actor = f"cli:{getpass.getuser()}"
    loop = asyncio.get_running_loop()
    try:
        with _progress(len(chosen)) as advance:
            for position, letter_id in enumerate(chosen):
                due = loop.time() + 1 / rate
                try:
                    await change(connection, letter_id, actor)
                    await connection.execute(RING)
                except Problem as problem:
                    failures[str(letter_id)] = problem.detail or problem.title
                except Exception as error:
                    if not db.is_away(error):
                        raise
                    failures |= dict.fromkeys(map(str, chosen[position:]), "the database cannot be reached")
                    break
                advance()
                await asyncio.sleep(max(0.0, due - loop.time()))
    finally:
        connection.terminate()
    return failures


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error, if a person is watching."""
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("letters", total=total)
        yield lambda: bar.advance(task)


async def _one(letter_id: UUID) -> DeadLetter | None:
    engine = db.create_engine(db.database_url(settings.load().storage), 1)
    try:
        return await queue.find_letter(engine, letter_id)
    finally:
        await engine.dispose()


async def _all(wanted: Filter, limit: int | None) -> list[DeadLetter]:
    """Up to `limit` letters, or all of them, page by page."""
    engine = db.create_engine(db.database_url(settings.load().storage), 1)
    found: list[DeadLetter] = []
    try:
        while limit is None or len(found) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(found))
            before = found[-1].id if found else None
            page = await queue.find_letters(engine, wanted, limit=size, before=before)
            found += page
            if len(page) < size:
                break
    finally:
        await engine.dispose()
    return found
