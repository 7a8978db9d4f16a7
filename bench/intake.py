"""Rows about claims of two lines: the service against the database alone, FastAPI alone, and the plain way of writing
it. Called by `__main__`.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

from bench import database, wrk
from bench.ground import MINIMAL, PGBENCH, PGBENCH_CLIENTS, Ground
from bench.machine import cores
from bench.rows import Figures, Row, Side, Spec, in_turn, needed

_POST = "`POST /claims`, 2 lines"
_PGBENCH = "pgbench, one transaction a claim"
_PLAIN = "the plain way"

SPECS = (
    Spec(
        "intake-pgbench", f"{_POST}, one web process", _PGBENCH,
        "the whole service against the same rows written by C clients with prepared statements, a statement a table, "
        "no trigger, no NOTIFY; the better of 8 and 32 clients in each round",
        0.55, "claims/s", ("one", "pgbench"),
    ),
    Spec(
        "intake-pgbench-best", f"{_POST}, the best number of web processes", _PGBENCH,
        "the same with one or two web processes, whichever took in more",
        0.75, "claims/s", ("one", "two", "pgbench"),
    ),
    Spec(
        "intake-constant", f"{_POST}, the whole claim in the answer", "a constant FastAPI route, the same answer",
        "everything that the service does against a route that reads the body and returns a constant object, the usual "
        "way (no model of the answer): what the framework costs by itself",
        0.9, "answers/s", ("one", "constant"),
    ),
    Spec(
        "intake-constant-minimal", f"{_POST}, `Prefer: return=minimal`", "a constant FastAPI route, the same answer",
        "the same with the short answer on both sides",
        0.9, "answers/s", ("minimal", "constant minimal"),
    ),
    Spec(
        "intake-plain", f"{_POST}, one web process", _PLAIN,
        "against `bench/plain.py`: a Pydantic model in, SQLModel `add_all`, the same rows, one commit a request, one "
        "process with the same server options",
        10, "claims/s", ("one", "plain"),
    ),
    Spec(
        "intake-plain-best", f"{_POST}, the best number of web processes", _PLAIN,
        "the same with one or two web processes; the plain way keeps its one",
        13, "claims/s", ("one", "two", "plain"),
    ),
    Spec(
        "intake-zipf", f"{_POST}, Zipf NPIs (s = 1.1)", "uniform NPIs",
        "what hot providers cost: 10,000 NPIs of which the first has a seventh of all lines, against all as likely",
        0.85, "claims/s", ("zipf", "one"),
    ),
    Spec(
        "intake-zipf-two", f"{_POST}, Zipf NPIs, 2 web processes", "1 web process",
        "whether two writers that meet on the same totals still gain from a second process",
        1.2, "claims/s", ("two zipf", "zipf"),
    ),
    Spec(
        "intake-two", f"{_POST}, uniform NPIs, 2 web processes", "1 web process",
        "what a second web process brings, where the cores are there for it",
        1.6, "claims/s", ("two", "one"),
    ),
    Spec(
        "intake-cpu", "server CPU for each 2-line claim, until it is paid and published", _PLAIN,
        "as the kernel counts it, of all processes of the service (web, worker, Postgres, Valkey, supervisor, and the "
        "stand-in for payments), until nothing is left to do, against those of the plain way (its process, Postgres), "
        "which neither pays nor publishes",
        0.1, "ms/claim", ("one", "plain"), at_most=True,
    ),
    Spec(
        "intake-cpu-alone", "server CPU for each 2-line claim, intake alone", _PLAIN,
        "the same while the worker stands still, so that both sides do the same work",
        0.1, "ms/claim", ("alone", "plain"), at_most=True,
    ),
)  # fmt: skip


def sides(ground: Ground) -> dict[str, Side]:
    """All of them, by the names that SPECS need."""
    return {
        "one": partial(_service, ground, "one", lambda: ground.service.url),
        "constant": partial(_constant, ground, "constant", "/whole"),
        "two": partial(_service, ground, "two", lambda: ground.two_webs.url),
        "pgbench": partial(_pgbench, ground),
        "minimal": partial(_service, ground, "minimal", lambda: ground.service.url, prefer=MINIMAL),
        "constant minimal": partial(_constant, ground, "constant minimal", "/minimal", prefer=MINIMAL),
        "plain": partial(_plain, ground),
        "zipf": partial(_service, ground, "zipf", lambda: ground.service.url, "zipf"),
        "two zipf": partial(_service, ground, "two zipf", lambda: ground.two_webs.url, "zipf"),
        "alone": partial(_alone, ground),
    }


def _service(
    ground: Ground, name: str, url: Callable[[], str], kind: str = "uniform", prefer: str = ""
) -> dict[str, float]:
    taken = ground.intake(url(), kind, PREFER=prefer)
    figures = {name: taken.run.rate}
    if name == "one":
        figures["one cpu"] = taken.cpu_ms
    return figures | ({f"{name} idle": taken.idle, f"{name} wrk": taken.wrk} if name in ("one", "two") else {})


def _constant(ground: Ground, name: str, route: str, prefer: str = "") -> dict[str, float]:
    run = wrk.good(ground.constant.url, route, ground.plan.seconds, ground.bodies("uniform"), PREFER=prefer)
    return {name: run.rate}


def _pgbench(ground: Ground) -> dict[str, float]:
    best = 0.0
    for clients in PGBENCH_CLIENTS:
        with ground.service.stores_all(0, ground.pgbench_database) as stored:
            run = database.pgbench(
                ground.service, PGBENCH, database.CLAIM, clients, f"--time={ground.plan.seconds:.0f}"
            )
            stored.acknowledged = run.transactions
        best = max(best, run.rate)
    return {"pgbench": best}


def _plain(ground: Ground) -> dict[str, float]:
    rate, cpu_ms = ground.plain_intake()
    return {"plain": rate, "plain cpu": cpu_ms}


def _alone(ground: Ground) -> dict[str, float]:
    """CPU of the intake alone: the worker pays only when it has been counted."""
    service = ground.service
    with service.paused("project.worker"), service.stores_all(wrk.CLIENTS) as stored:
        before = service.cpu_s()
        run = wrk.good(service.url, "/claims", ground.plan.seconds, ground.bodies("uniform"))
        figures = {"alone cpu": (service.cpu_s() - before) / run.answers * 1000}
        stored.acknowledged = run.answers
    service.await_drained()
    return figures


def measure(ground: Ground, wanted: Sequence[Spec]) -> Iterator[Row]:
    """The rows that are wanted."""
    figures = in_turn(ground.plan.pairs, needed(wanted, sides(ground)))
    for spec in wanted:
        yield _row(spec, figures)


def _row(spec: Spec, figures: Figures) -> Row:
    left, right = spec.needs[0], spec.needs[-1]
    match spec.key:
        case "intake-pgbench-best" | "intake-plain-best":
            best = max(("one", "two"), key=lambda name: median(figures[name]))
            return Row(spec, figures[best], figures[right], f"the best number was {best}")
        case "intake-cpu" | "intake-cpu-alone":
            return Row(spec, figures[f"{left} cpu"], figures[f"{right} cpu"])
        case "intake-two":
            return Row(spec, figures[left], figures[right], _free(figures))
        case _:
            return Row(spec, figures[left], figures[right])


def _free(figures: Figures) -> str:
    """What of the machine was left while one process was at work, and while two were."""
    told = []
    for name in ("one", "two"):
        idle, taken = median(figures[f"{name} idle"]), median(figures[f"{name} wrk"])
        told.append(f"with {name} {idle:.2f} of {cores()} cores were idle, wrk took {taken:.2f}")
    return "; ".join(told)
