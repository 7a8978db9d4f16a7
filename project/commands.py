"""An operator's commands: doctor, announce, dead-letters, keys. `cli` becomes this module.

Every expected failure is one line on standard error and exit code 1. Every command that prints facts has --json.
"""

import asyncio
import sys
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from project import db, doctor, settings, wire
from project.bell import RING
from project.dead_letters import commands as dead_letters
from project.errors import ServiceError
from project.ids import moment
from project.notifications import publisher
from project.security import commands as keys

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(keys.app, name="keys")

Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.callback()
def _group() -> None:
    """Looks at and mends a running service."""


@app.command("doctor")
def examine(as_json: Json = False) -> None:
    """Says whether the books balance, payments agrees and nothing is stuck; exit code 1 if not."""
    chosen = settings.load()
    report = asyncio.run(_examine(chosen))
    if as_json:
        typer.echo(wire.encode(_facts(report)).decode())
    else:
        for line in _told(report, chosen.worker.stuck_after):
            typer.echo(line)
    if not report.healthy:
        raise typer.Exit(1)


async def _examine(chosen: settings.Settings) -> doctor.Report:
    connection = await db.connect_patiently(db.database_url(chosen.storage))
    try:
        token = chosen.payments.payments_token
        listed = await doctor.listed(chosen.payments_url, token.get_secret_value() if token else None)
        return await doctor.examine(connection, listed, chosen.worker.stuck_after)
    finally:
        connection.terminate()


def _facts(report: doctor.Report) -> dict[str, Any]:
    payments = report.payments
    return {
        "healthy": report.healthy,
        "difference": report.books.difference,
        "sums": asdict(report.books),
        "torn": report.torn,
        "stuck": [{**asdict(one), "claim_id": str(one.claim_id)} for one in report.stuck],
        "payments": payments and asdict(payments),
    }


def _told(report: doctor.Report, stuck_after_s: int) -> list[str]:
    books, payments = report.books, report.payments
    lines = [
        f"books      difference {books.difference}: lines {books.lines}, claims {books.claims}, "
        f"providers {books.providers}, events {books.events}",
        f"torn       {report.torn} claims contradict their payment",
        f"stuck      {len(report.stuck)} claims unsettled for more than {stuck_after_s} s",
    ]
    lines += [
        f"           {one.claim_id} {one.state}, {one.attempts} attempts, {one.last_error or 'not called yet'}"
        for one in report.stuck[: doctor.SHOWN]
    ]
    if payments is None:
        lines.append("payments   not compared: the service lists no payments, or is away")
    else:
        lines.append(
            f"payments   difference {payments.difference}: {payments.claims} paid claims compared, "
            f"{len(payments.disagreements)} disagree"
        )
        lines += [f"           {one}" for one in payments.disagreements[: doctor.SHOWN]]
    return [*lines, "healthy" if report.healthy else "NOT healthy"]


@app.command()
def announce(
    since: Annotated[str, typer.Option(help="RFC 3339 time: events at or after it are sent again")],
    as_json: Json = False,
) -> None:
    """Has the worker publish events again, in order, for a consumer that missed some."""
    instant = moment(since)
    assert instant
    count = asyncio.run(_announce(instant))
    typer.echo(wire.encode({"announced": count}).decode() if as_json else f"{count} events are published again")


async def _announce(since: datetime) -> int:
    connection = await db.connect_patiently(db.database_url(settings.load().storage))
    try:
        count = sum([step async for step in publisher.announce(connection, since)])
        await connection.execute(RING)
        return count
    finally:
        connection.terminate()


def main() -> None:
    """Runs the command that the arguments name."""
    try:
        app(prog_name="python -m project")
    except ServiceError as error:
        sys.exit(f"claim_process: {error}")
    except Exception as error:
        if not db.is_away(error):
            raise
        sys.exit(f"claim_process: the database cannot be reached, or is not migrated ({type(error).__name__})")


if __name__ == "__main__":
    main()
