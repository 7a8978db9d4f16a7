"""The web processes: `python -m project.web`. Started by the supervisor and by `python -m project web`.

This module imports neither `app` nor anything that imports prometheus_client, which looks for its shared folder when
it is imported; the folder is made here, before uvicorn loads the application.
"""

import gc
import os
import shutil
import ssl
import sys
from pathlib import Path

import uvicorn

from project import settings
from project.errors import SettingsError
from project.protocol import Protocol
from project.security.exposure import refuse_exposure_without_keys
from project.telemetry import logs, tracing

GRACE_S = 30  # how long requests in hand may take after SIGTERM
# uvicorn takes a worker that is silent for its default of 5 s for dead; a large claim on a busy machine is not.
WORKER_SILENCE_S = 30


def serve(chosen: settings.Settings) -> None:
    """Serves until SIGTERM or SIGINT, WEB_WORKERS processes on one socket; returns when all requests are answered."""
    gc.disable()  # importing makes much and drops little: a fifth of the start was spent looking; `app` enables it
    logs.configure(chosen.logging, "web")
    refuse_exposure_without_keys(chosen)
    tracing.is_wanted()  # raises now what would be an application that does not load
    server = chosen.server
    password = server.ssl_keyfile_password
    _fresh_metrics(chosen.storage.data_dir)
    uvicorn.run(
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
