"""Refuses to start where other machines could reach a service without keys. Called by `web` and `worker` first."""

import asyncio
from typing import Any

import structlog

from project import db
from project.errors import SettingsError
from project.security import store
from project.settings import Settings
from project.telemetry.logs import where

_log = structlog.get_logger("keys")
ASK_AGAIN_S = 0.5


def refuse_exposure_without_keys(chosen: Settings) -> None:
    """Returns at once for a service of this machine alone; otherwise waits until the database says that a key was made.

    Raises SettingsError when none was.
    """
    why = chosen.server.exposed_by
    if why is not None and not asyncio.run(_ever_made(db.database_url(chosen.storage))):
        raise SettingsError(
            f"{why} lets other machines in, but no API key was ever made; "
            "make one first: python -m project keys create NAME --scope SCOPE"
        )


async def _ever_made(database_url: str) -> bool:
    """Waits for a database that is away or not migrated yet, since it may be starting beside us."""
    told = False
    while True:
        connection: Any = None
        try:
            connection = await db.connect(database_url)
            return await store.ever_made(connection)
        except Exception as error:
            if not db.is_away(error):
                raise
            if not told:
                _log.info("waiting_for_database", to_know="whether an API key was ever made", error=where(error))
            told = True
        finally:
            if connection is not None:
                connection.terminate()
        await asyncio.sleep(ASK_AGAIN_S)
