"""Every metric of the web processes, and the exposition that adds the processes up.

The values live in files of PROMETHEUS_MULTIPROC_DIR that all processes share, so any of them can answer for all
(prometheus_client decides that when it is imported: `project.web` sets the folder before). Labels take values from
fixed lists only: routes, statuses, rules; never from input. What alert rules look at is there from the start, as 0:
the rate of a counter that begins with its first failure does not show that failure.
"""

import os
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

# Each change of a value asks who the process is, in case it was forked. Ours are not, and it is a syscall, ten times a
# claim (bench: 2 lines).
_PID = os.getpid()
if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    values.ValueClass = values.MultiProcessValue(lambda: _PID)  # type: ignore[no-untyped-call]

_LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

# Every route that is served. `telemetry.http` counts all else as one kind of request (UNSERVED), or anybody could make
# a series for each pair of a method and a path, until a scrape holds more of them than Prometheus takes
# (`test_a_scrape_stays_small`).
ROUTES = frozenset(
    {
        ("POST", "/claims"),
        ("POST", "/claims/batch"),
        ("GET", "/claims"),
        ("GET", "/claims/{claim_id}"),
        ("GET", "/claims/{claim_id}/events"),
        ("GET", "/top-provider"),
        ("GET", "/dead-letters"),
        ("GET", "/dead-letters/{letter_id}"),
        ("POST", "/dead-letters/{letter_id}/redrive"),
        ("POST", "/dead-letters/{letter_id}/discard"),
        ("GET", "/metrics"),
        ("GET", "/hello"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/docs"),
        ("GET", "/redoc"),
    }
)
UNSERVED = ("OTHER", "unmatched")

HTTP_REQUESTS = Counter("http_requests_total", "Requests by route template.", ["method", "route", "status"])
HTTP_SECONDS = Histogram(
    "http_request_duration_seconds", "Time to the last byte of the answer.", ["method", "route"], buckets=_LATENCY_S
)
CLAIMS_ACCEPTED = Counter("claims_accepted_total", "Claims durably stored.")
LINES_ACCEPTED = Counter("claim_lines_accepted_total", "Lines of the claims durably stored.")
CLAIMS_REFUSED = Counter("claims_refused_total", "Claims refused, once for each rule that they broke.", ["rule"])
CLAIMS_REPLAYED = Counter("claims_replayed_total", "Repeats answered with the claim that their Idempotency-Key made.")
BATCH_CLAIMS = Histogram(
    "ledger_batch_claims", "Claims in one commit.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)
COMMIT_SECONDS = Histogram("ledger_commit_seconds", "From BEGIN to the answer of COMMIT.", buckets=_LATENCY_S)
SHED = Counter("requests_shed_total", "Requests and connections refused unseen, because the process had too many.")
LEDGER_FAILURES = Counter("ledger_failures_total", "Batches that did not commit at once.", ["reason"])
QUEUE_CLAIMS = Gauge("ledger_queue_claims", "Claims that wait for their commit.", multiprocess_mode="livesum")
RANKING_CACHE = Counter("ranking_cache_total", "Reads of the cached ranking.", ["result"])
RANKING_SECONDS = Histogram("ranking_recompute_seconds", "Making the ranking from the totals.", buckets=_LATENCY_S)
LIMITER_REFUSED = Counter("limiter_refused_total", "Requests over the rate limit, answered 429.")
LIMITER_DEGRADED = Counter("limiter_degraded_total", "Requests let through uncounted, because Redis was away.")
POOL_IN_USE = Gauge("database_pool_in_use", "Connections lent out for reads.", multiprocess_mode="livesum")
POOL_SIZE = Gauge("database_pool_size", "Connections that may be lent out.", multiprocess_mode="livesum")

for _method, _route in ROUTES:
    for _status in ("500", "503"):
        HTTP_REQUESTS.labels(_method, _route, _status)
HTTP_SECONDS.labels("POST", "/claims")
for _reason in ("database_away", "statement", "lost_commit"):
    LEDGER_FAILURES.labels(_reason)
for _result in ("hit", "miss", "error"):
    RANKING_CACHE.labels(_result)
CLAIMS_REFUSED.labels("unreadable")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition() -> bytes:
    """All processes' values in Prometheus' text format; blocks for some milliseconds, so call it in a thread."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return generate_latest()
    registry = CollectorRegistry()
    _forget_the_dead(Path(folder))
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _forget_the_dead(folder: Path) -> None:
    """Drops what a killed process leaves: gauges of a life that is over, and files without content.

    An empty file would break every scrape (client_python #1199). Counters of the dead stay: they happened.
    """
    for file in folder.glob("*.db"):
        pid = int(file.stem.rsplit("_", 1)[-1])
        if _lives(pid):
            continue
        mark_process_dead(pid, path=str(folder))  # type: ignore[no-untyped-call]
        with suppress(FileNotFoundError):
            if file.stat().st_size == 0:
                file.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
