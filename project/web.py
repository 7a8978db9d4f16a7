"""The web processes: `python -m project.web`. Started by the supervisor and by `python -m project web`.

They are uvicorn's, and stop so that a proxy in front loses no request (docs/decisions/0015-nginx-and-draining.md).

This module imports neither `app` nor anything that imports prometheus_client, which looks for its shared folder when
it is imported; the folder is made here, before uvicorn loads the application.
"""

import asyncio
import gc
import os
import select
import shutil
import socket
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from project import settings
from project.errors import SettingsError
from project.protocol import Protocol
from project.security.exposure import refuse_exposure_without_keys
from project.telemetry import logs, tracing

GRACE_S = 30  # how long requests in hand may take after SIGTERM
# uvicorn takes a worker that is silent for its default of 5 s for dead; a large claim on a busy machine is not.
WORKER_SILENCE_S = 30
BACKLOG_S = 1.0  # for accepting who was connected before SIGTERM, who may be many


class Server(uvicorn.Server):
    """One process that listens."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts who is connected already, and only then stops listening: that resets whoever was not accepted yet.

        Between the last look and the close nothing else of this process runs.
        """
        backlog = select.poll()
        for listener in (listener for server in self.servers for listener in server.sockets):
            backlog.register(listener.fileno(), select.POLLIN)
        deadline = time.monotonic() + BACKLOG_S
        while backlog.poll(0) and time.monotonic() < deadline:  # noqa: ASYNC110  the loop's next round accepts
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)  # the last that was accepted becomes a connection, to be told of the stop like all
        await super().shutdown(sockets)


class Worker(multiprocess.Process):
    """One of several processes that listen on one socket."""

    @property
    def server(self) -> Server:
        """What the process runs."""
        if self._server is None:
            self._server = Server(self.config)
        assert isinstance(self._server, Server)
        return self._server


class Workers(multiprocess.Multiprocess):
    """Their parent."""

    def terminate_all(self) -> None:
        """Lets go of the socket first: while it is open anywhere, connections are made that nobody accepts."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def serve(chosen: settings.Settings) -> None:
    """Serves until SIGTERM or SIGINT, WEB_WORKERS processes on one socket; returns when all requests are answered."""
    gc.disable()  # importing makes much and drops little: a fifth of the start was spent looking; `app` enables it
    logs.configure(chosen.logging, "web")
    refuse_exposure_without_keys(chosen)
    tracing.is_wanted()  # raises now what would be an application that does not load
    server = chosen.server
    password = server.ssl_keyfile_password
    _fresh_metrics(chosen.storage.data_dir)
    config = uvicorn.Config(
        "project.app:create_app",
        factory=True,
        host=server.host,
        port=server.port,
        http=Protocol,
        ws="none",
        workers=server.web_workers,
        log_config=None,
        access_log=False,
        proxy_headers=bool(server.trusted_proxies),  # nobody else's header may tell who the client is
        forwarded_allow_ips=server.trusted_proxies,
        ssl_certfile=server.ssl_certfile,
        ssl_keyfile=server.ssl_keyfile,
        ssl_keyfile_password=password.get_secret_value() if password else None,
        ssl_ca_certs=str(server.ssl_ca_certs) if server.ssl_ca_certs else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if server.ssl_ca_certs else ssl.CERT_NONE,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_worker_healthcheck=WORKER_SILENCE_S,
    )
    if config.workers > 1:
        multiprocess.Process = Worker  # type: ignore[misc]  # Multiprocess can be told in no other way
        Workers(config, [config.bind_socket()]).run()
    else:
        _serve_alone(config)


def _serve_alone(config: uvicorn.Config) -> None:
    """In this process. Ctrl-C is no error; a start that fails is, with uvicorn's own exit code."""
    config.load_app()
    server = Server(config)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _fresh_metrics(data_dir: Path) -> None:
    """An empty folder for the values that the processes share; what an earlier run left would be counted again."""
    folder = Path(os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(data_dir.absolute() / "run" / "metrics")))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


if __name__ == "__main__":
    try:
        serve(settings.load())
    except SettingsError as error:
        sys.exit(f"claim_process: {error}")
