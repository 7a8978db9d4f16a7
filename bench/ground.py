"""What the families of rows share: one service on one engine, and the other sides, started when first asked for."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import httpx2

from bench import bodies, database, patient, wrk
from bench.machine import Cores
from bench.plan import Plan
from bench.stack import FOLDER, Server, Stack, cpu_s, running, serving
from project.engines.places import DATABASE

PLAIN, PGBENCH, COPIED = "plain", "pgbench", "copied"  # databases of the other sides
MINIMAL = "return=minimal"
LARGE_LINES = 1_000
BATCH_CLAIMS = 10  # so many of these are COPYed at once: as many lines as the service commits at once
PLAIN_CLIENTS = 4  # that post claims of LARGE_LINES: more would only wait longer
PGBENCH_CLIENTS = (8, 32)
_CLAIMS = 5_000
_ACCEPTED = re.compile(r"^claims_accepted_total ([0-9.e+]+)$", re.MULTILINE)


@dataclass
class Curve:
    """A picture: y over x, a line for each series."""

    name: str
    title: str
    x: str
    y: str
    logarithmic: bool = False
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


class Ground:
    """Owns whatever was started; all of it ends with `exits`."""

    def __init__(self, plan: Plan, exits: ExitStack) -> None:
        self.plan = plan
        self.exits = exits
        self.curves: list[Curve] = []
        self.samples: list[Sample] = []
        self.first_samples: list[Sample] = []
        self._databases: list[str] = []
        self._written: set[Path] = set()

    @cached_property
    def service(self) -> Stack:
        """As `make run` starts it: one web process, worker, stand-in, Postgres and Valkey; warm."""
        stack = self.exits.enter_context(running())
        wrk.good(stack.url, "/claims", self.plan.warm_s, self.bodies("uniform"))
        stack.await_drained()
        self._databases.append(DATABASE)
        return stack

    def start_together(self) -> None:
        """All servers at once, which saves time where all of them will be asked for."""
        assert self.service
        with ThreadPoolExecutor() as together:
            list(together.map(partial(getattr, self), ("two_webs", "plain", "constant", "limited")))
        self.service.await_drained()

    @cached_property
    def two_webs(self) -> Server:
        """Two web processes beside the idle one, on the same engines, with the same worker."""
        server = self.exits.enter_context(serving("project.web", self.service, WEB_WORKERS="2"))
        wrk.good(server.url, "/claims", self.plan.warm_s, self.bodies("uniform"))
        self.service.await_drained()
        return server

    @cached_property
    def limited(self) -> Server:
        """A web process whose rate limit is used up: what it answers now is 429."""
        server = self.exits.enter_context(serving("project.web", self.service, TOP_PROVIDER_RATE_LIMIT="1/hour"))
        httpx2.get(f"{server.url}/top-provider")
        if (answer := httpx2.get(f"{server.url}/top-provider")).status_code != 429:
            raise RuntimeError(f"a limit of one request an hour: {answer.status_code}")
        return server

    @cached_property
    def plain(self) -> Server:
        """The plain way, on a database of its own."""
        url = self.service.new_database(PLAIN)
        self._databases.append(PLAIN)
        server = self.exits.enter_context(serving("bench.plain", self.service, url))
        wrk.good(server.url, "/claims", self.plan.warm_s, self.bodies("uniform"))
        server.await_idle()
        return server

    @cached_property
    def constant(self) -> Server:
        """Constant answers as large as the service's: /whole, /minimal, /top, /refusal."""
        body = self.bodies("uniform").read_text().split("\n", 1)[0]
        answers = {
            "whole": self.service.answer("/claims", body),
            "minimal": self.service.answer("/claims", body, Prefer=MINIMAL),
            "top": self.service.answer("/top-provider"),
            "refusal": {"type": "/problems/rate-limit", "title": "Too Many Requests", "status": 429,
                        "detail": "at most 1 requests in 3600 seconds"},
        }  # fmt: skip
        file = FOLDER / "answers.json"
        file.write_text(json.dumps(answers))
        server = self.exits.enter_context(serving("bench.constant", self.service, str(file)))
        wrk.good(server.url, "/whole", self.plan.warm_s, self.bodies("uniform"))
        return server

    @cached_property
    def pgbench_database(self) -> str:
        """The name of a database for pgbench alone, warm."""
        self.service.new_database(PGBENCH)
        self._databases.append(PGBENCH)
        database.pgbench(self.service, PGBENCH, database.CLAIM, 8, f"--time={self.plan.warm_s:.0f}")
        return PGBENCH

    @cached_property
    def copied_database(self) -> str:
        """The URL of a database for COPY alone."""
        return self.service.new_database(COPIED)

    def bodies(self, kind: str) -> Path:
        """A file of claims, one a line: `uniform` and `zipf` of two lines, `large` of LARGE_LINES."""
        file = FOLDER / f"{kind}.ndjson"
        if file not in self._written:
            draw = bodies.zipf() if kind == "zipf" else bodies.uniform()
            count, lines = (2 * BATCH_CLAIMS, LARGE_LINES) if kind == "large" else (_CLAIMS, 2)
            FOLDER.mkdir(parents=True, exist_ok=True)
            bodies.written(file, count, lines, draw)
            self._written.add(file)
        return file

    @cached_property
    def chunks(self) -> list[database.Chunk]:
        """The large claims, ready for COPY."""
        claims = self.bodies("large").read_text().splitlines()
        return [database.Chunk(claims[start : start + BATCH_CLAIMS]) for start in range(0, len(claims), BATCH_CLAIMS)]

    def intake(
        self, url: str, kind: str, seconds: float | None = None, clients: int = wrk.CLIENTS, **told: str
    ) -> "Intake":
        """Load of claims on the service, then the wait until it is drained; checked against the database."""
        service, bodies_file = self.service, self.bodies(kind)
        with service.stores_all(clients) as stored:
            before, cores = service.cpu_s(), Cores.now()
            run = wrk.good(url, "/claims", seconds or self.plan.seconds, bodies_file, clients, **told)
            used = Cores.now().since(cores)
            service.await_drained()
            cpu_ms = (service.cpu_s() - before) / run.answers * 1000
            stored.acknowledged = run.answers
        self.sample()
        return Intake(run, cpu_ms, used.idle, used.wrk)

    def sample(self) -> "Sample":
        """Memory as it is now; kept for the curve."""
        metrics = httpx2.get(f"{self.service.url}/metrics").raise_for_status().text
        claims = int(float(_ACCEPTED.findall(metrics)[0]))
        web, worker = self.service.memory_mib("project.web"), self.service.memory_mib("project.worker")
        self.samples.append(Sample(claims, web, worker))
        return self.samples[-1]

    def plain_intake(self) -> tuple[float, float]:
        """Claims of two lines that the plain way takes in each second, and milliseconds of CPU for each."""
        server, service = self.plain, self.service
        with service.stores_all(wrk.CLIENTS, PLAIN) as stored:
            before = cpu_s(server.pid) + service.cpu_s("postgres")
            run = wrk.good(server.url, "/claims", self.plan.seconds, self.bodies("uniform"))
            server.await_idle()
            cpu = cpu_s(server.pid) + service.cpu_s("postgres") - before
            stored.acknowledged = run.answers
        return run.rate, cpu / run.answers * 1000

    def plain_large_intake(self) -> float:
        """Claims of LARGE_LINES that it takes in each second."""
        url, claims = f"{self.plain.url}/claims", self.bodies("large").read_text().splitlines()
        with self.service.stores_all(0, PLAIN) as stored:
            run = patient.post(url, claims, self.plan.seconds, PLAIN_CLIENTS)
            stored.acknowledged = run.answers
        return run.rate

    def check(self) -> None:
        """The books of all databases that claims went into."""
        for name in self._databases:
            self.service.check_books(name)


@dataclass(frozen=True)
class Intake:
    """A run of claims: milliseconds of CPU for each, cores that were idle meanwhile, cores that wrk took."""

    run: wrk.Run
    cpu_ms: float
    idle: float
    wrk: float


@dataclass(frozen=True)
class Sample:
    """Resident memory (MiB) after so many claims that this web process has taken in."""

    claims: int
    web: float
    worker: float
