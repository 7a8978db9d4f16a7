"""Where the embedded engines keep their things. Called by everything that needs a URL.

Every path follows from DATA_DIR alone, so any command finds the running engines without being told more.
"""

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

DATABASE = "claims"
USER = "app"
POSTGRES_SOCKET = ".s.PGSQL.5432"
VALKEY_SOCKET = "redis.sock"
# A socket's path ends at 108 bytes with its NUL on Linux, at 104 on macOS.
LONGEST_SOCKET_PATH = 103


class Places:
    """The folders and sockets under one DATA_DIR."""

    def __init__(self, data_dir: Path) -> None:
        self.data = Path(os.path.abspath(data_dir))  # noqa: PTH100  absolute without following links
        self.postgres = self.data / "pg"
        self.valkey = self.data / "redis"
        self.run = self.data / "run"
        self.logs = self.data / "logs"
        self.lock = self.data / "lock"

    @property
    def sockets(self) -> Path:
        """The folder of the sockets as it must be named: itself, or where its path is too long a short link to it."""
        return self.run if len(os.fsencode(self.run / POSTGRES_SOCKET)) <= LONGEST_SOCKET_PATH else self.short_link

    @property
    def short_link(self) -> Path:
        """A link to `run` in a folder that belongs to the data's owner. Made by `prepare`."""
        owner = self.data.stat().st_uid if self.data.exists() else os.getuid()
        digest = hashlib.sha256(os.fsencode(self.run)).hexdigest()[:16]
        return Path("/tmp") / f"claim_process-{owner}" / digest  # noqa: S108  owner and mode are checked in `launch`

    @property
    def postgres_url(self) -> str:
        """For asyncpg and libpq: the database over its socket."""
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(self.sockets), safe='/')}"

    @property
    def redis_url(self) -> str:
        """For redis-py: the socket."""
        return f"unix://{quote(str(self.sockets / VALKEY_SOCKET), safe='/')}"
