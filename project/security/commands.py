"""`python -m project keys` makes, lists and revokes API keys. Called by `project.commands`; it works on the database
itself, so it needs no running web process.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from project import db, settings, wire
from project.errors import ServiceError, SettingsError
from project.ids import moment, rfc3339
from project.security import store
from project.security.naming import checked_name, checked_scopes
from project.security.scopes import Scope

T = TypeVar("T")

app = typer.Typer(help="API keys: who may do what.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Scopes = Annotated[
    list[str], typer.Option("--scope", help=f"what it may do, once for each: {', '.join(Scope)}", show_default=False)
]
Expires = Annotated[str | None, typer.Option(help="RFC 3339 time from which on it lets nobody in; never without")]


@app.command()
def create(name: str, scope: Scopes, expires: Expires = None, as_json: Json = False) -> None:
    """Makes a key for the client NAME and shows it, once. Several live keys may share a name: that is how to rotate."""
    wanted = checked_scopes(scope)
    until = moment(expires)
    if until is not None and until <= datetime.now(UTC):
        raise SettingsError("--expires is in the past")
    made, first = asyncio.run(_over_database(lambda connection: _create(connection, checked_name(name), wanted, until)))
    if first:
        typer.echo("the first key: within five seconds every request needs one", err=True)
    if as_json:
        facts = {"id": str(made.id), "name": made.name, "key": made.key, "scopes": [one.value for one in made.scopes]}
        typer.echo(wire.encode(facts).decode())
        return
    typer.echo(f"id      {made.id}\nname    {made.name}\nscopes  {' '.join(made.scopes)}\nkey     {made.key}")
    typer.echo("the key is not shown again", err=True)


async def _create(connection: Any, name: str, scopes: list[Scope], until: datetime | None) -> tuple[store.NewKey, bool]:
    first = not await store.ever_made(connection)
    return await store.create(connection, name, scopes, until), first


@app.command("list")
def list_keys(
    also_ended: Annotated[bool, typer.Option("--all", help="revoked and expired ones, too")] = False,
    as_json: Json = False,
) -> None:
    """Lists keys by name, with their last use (to the minute); never the keys themselves."""
    rows = asyncio.run(_over_database(lambda connection: store.listed(connection, also_ended=also_ended)))
    if as_json:
        typer.echo(wire.encode({"items": [_facts(row) for row in rows]}).decode())
        return
    table = Table("id", "name", "scopes", "created", "expires", "revoked", "last used")
    for row in rows:
        times = (_time(row[column]) or "" for column in ("created_at", "expires_at", "revoked_at", "last_used_at"))
        table.add_row(str(row["id"]), row["name"], " ".join(row["scopes"]), *times)
    Console(width=None if sys.stdout.isatty() else 250).print(table)


@app.command()
def revoke(name_or_id: Annotated[str, typer.Argument(metavar="NAME|ID")], as_json: Json = False) -> None:
    """Revokes one key by its id, or all keys of a name; in force within five seconds. There is no way back."""
    revoked, left = asyncio.run(_over_database(lambda connection: _revoke(connection, name_or_id)))
    if not revoked:
        raise ServiceError("no key of this name or id can be revoked (any more)")
    typer.echo(
        wire.encode({"revoked": [str(key_id) for key_id in revoked]}).decode()
        if as_json
        else "\n".join(f"revoked {key_id}" for key_id in revoked)
    )
    if not left:
        typer.echo("no key is left: nobody is let in until one is made", err=True)


async def _revoke(connection: Any, name_or_id: str) -> tuple[list[UUID], bool]:
    revoked = await store.revoke(connection, name_or_id)
    return revoked, bool(await store.live(connection))


async def _over_database(work: Callable[[Any], Awaitable[T]]) -> T:
    connection = await db.connect(db.database_url(settings.load().storage))
    try:
        return await work(connection)
    finally:
        connection.terminate()


def _time(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)


def _facts(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "name": row["name"],
        "scopes": row["scopes"],
        "created_at": _time(row["created_at"]),
        "expires_at": _time(row["expires_at"]),
        "revoked_at": _time(row["revoked_at"]),
        "last_used_at": _time(row["last_used_at"]),
        "live": row["live"],
    }
