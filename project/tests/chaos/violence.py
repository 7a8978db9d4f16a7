"""What is done to the service: each kind hurts something at once and gives back how it is healed. Used by `trial`.

Called in the main thread only, because engines are on the leash of the thread that starts them.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import asyncpg
import redis

from project.engines.places import VALKEY_SOCKET
from project.tests.chaos.stack import CACHE_DATABASE, Stack
from project.tests.own_engines import await_end, restart, restart_valkey
from project.tests.saga import Worker
from project.tests.service import Daemon, wait_until
from project.tests.supervision import processes_of
from project.web import GRACE_S, WORKER_SILENCE_S

LONGEST_HURT_S = 2.0
LONG_HURT_S = 12.0  # past every deadline and lease there is
LONG_HURTS = 0.08  # how many of all
AT_ONCE = ((1, 2, 3), (10, 5, 2))  # so many victims, so often
LONGEST_PEACE_S = 1.0

Heal = Callable[[], None]
Kind = tuple[str, str, Callable[[], Heal]]
# Who is hurt, in the order of healing: what others need comes first.
ORDER = ("postgres", "valkey", "payments", "worker", "web", "wire", "everything")


class Violence:
    """Hurts up to three victims at a time, chosen by the dice, every kind before any kind again."""

    def __init__(self, stack: Stack, dice: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self.web_away: list[tuple[float, float]] = []
        self._stack = stack
        self._dice = dice
        self._deck: list[Kind] = []

    def kinds(self) -> list[Kind]:
        """Victim, name and deed of each."""
        stack = self._stack
        return [
            ("web", "web killed", lambda: self._kill(stack.web)),
            ("web", "one web process killed", self._kill_one_web_process),
            ("web", "web asked to stop", lambda: self._ask_to_stop(stack.web)),
            ("web", "web stalled", lambda: self._stall(stack.web)),
            ("worker", "worker killed", lambda: self._kill(self._worker())),
            ("worker", "worker asked to stop", lambda: self._ask_to_stop(self._worker())),
            ("worker", "worker stalled", lambda: self._stall(self._worker())),
            ("payments", "payments killed", lambda: self._kill(stack.saga.payments)),
            ("payments", "payments stalled", lambda: self._stall(stack.saga.payments)),
            ("payments", "payments misbehaves", self._misbehave),
            ("payments", "payments misbehaves", self._misbehave),
            ("postgres", "Postgres killed", self._kill_postgres),
            ("postgres", "a Postgres session killed", self._kill_postgres_session),
            ("postgres", "Postgres restarted", self._restart_postgres),
            ("postgres", "Postgres stalled", lambda: self._stall_all(stack.places.postgres)),
            ("wire", "connections cut", self._cut_connections),
            *[("wire", "a commit cut", lambda: self._cut_commit(stack.proxy.drop_request))] * 2,
            *[("wire", "a commit's answer cut", lambda: self._cut_commit(stack.proxy.drop_answer_of))] * 2,
            ("valkey", "Valkey killed", self._kill_valkey),
            ("valkey", "Valkey stalled", self._stall_valkey),
            ("valkey", "Valkey emptied", self._empty_valkey),
            ("everything", "everything killed", self._kill_everything),
        ]

    def strike(self) -> None:
        """A few kinds at once, for a moment or past every deadline; then everything runs again."""
        chosen: list[Kind] = []
        wanted = self._dice.choices(*AT_ONCE)[0]
        while len(chosen) < wanted:
            kind = self._draw()
            victims = {victim for victim, _, _ in chosen}
            if chosen and (kind[0] in victims or "everything" in {kind[0], *victims}):
                self._deck.append(kind)  # the next time
                break
            chosen.append(kind)
        self._hurt(chosen)

    def strike_everything(self) -> None:
        """kill -9 of everything at once; then everything runs again."""
        self._hurt([kind for kind in self.kinds() if kind[0] == "everything"])

    def _hurt(self, chosen: list[Kind]) -> None:
        started = time.monotonic()
        heals = []
        for victim, name, hurt in chosen:
            self.done[name] += 1
            heals.append((ORDER.index(victim), hurt()))
        time.sleep(LONG_HURT_S if self._dice.random() < LONG_HURTS else self._dice.random() * LONGEST_HURT_S)
        for _, heal in sorted(heals, key=lambda one: one[0]):
            heal()
        if any(victim in ("web", "everything") for victim, _, _ in chosen):
            self.web_away.append((started, time.monotonic()))
        time.sleep(self._dice.random() * LONGEST_PEACE_S)

    def _draw(self) -> Kind:
        if not self._deck:
            self._deck = self.kinds()
            self._dice.shuffle(self._deck)
        return self._deck.pop()

    def _worker(self) -> Worker:
        return self._dice.choice(self._stack.saga.workers)

    @staticmethod
    def _kill(daemon: Daemon) -> Heal:
        """With its children, as when the machine kills it."""
        os.killpg(daemon.process.pid, signal.SIGKILL)
        daemon.process.wait(20)
        return daemon.start_again

    @staticmethod
    def _ask_to_stop(daemon: Daemon) -> Heal:
        daemon.process.send_signal(signal.SIGTERM)

        def heal() -> None:
            code = daemon.process.wait(GRACE_S + 5)
            assert code == 0, f"{daemon.log} ended with {code} when it was asked to stop"
            daemon.start_again()

        return heal

    @staticmethod
    def _stall(daemon: Daemon) -> Heal:
        os.killpg(daemon.process.pid, signal.SIGSTOP)
        return lambda: os.killpg(daemon.process.pid, signal.SIGCONT)

    @staticmethod
    def _stall_all(folder: Path) -> Heal:
        """All processes that run in a folder."""
        stopped = processes_of(folder)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

        def heal() -> None:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        return heal

    def _kill_one_web_process(self) -> Heal:
        """Its parent starts another: soon, or, when it was killed in its own start, once it counts as silent."""
        children = _web_processes(self._stack.web)
        if children:
            os.kill(self._dice.choice(children), signal.SIGKILL)
        return lambda: wait_until(
            lambda: len(_web_processes(self._stack.web)) == 2, "there are two web processes", WORKER_SILENCE_S + 15
        )

    def _misbehave(self) -> Heal:
        dice = self._dice
        self._stack.saga.payments.behave(
            refuse_rate=dice.choice([0, 0.02, 0.1]),
            fail_rate=dice.choice([0, 0.1, 0.3]),
            drop_after_commit_rate=dice.choice([0, 0.1, 0.3]),
            garbage_rate=dice.choice([0, 0.1, 0.3]),
            delay_ms=dice.choice([0, 5, 50, 600, 4000]),
            refuse_npis=[f"{1_000_000_000 + dice.randrange(300)}" for _ in range(dice.randrange(4))],
        )
        return lambda: None  # until it changes again

    def _kill_postgres(self) -> Heal:
        stack = self._stack
        os.kill(stack.postgres.pid, signal.SIGKILL)

        def heal() -> None:
            await_end(stack.postgres)
            restart(stack.postgres, stack.places)

        return heal

    def _restart_postgres(self) -> Heal:
        stack = self._stack
        stack.postgres.ask_to_stop()

        def heal() -> None:
            await_end(stack.postgres)
            restart(stack.postgres, stack.places)

        return heal

    def _kill_postgres_session(self) -> Heal:
        """Any of its processes but the first, which then ends all others and recovers."""
        others = [pid for pid in processes_of(self._stack.places.postgres) if pid != self._stack.postgres.pid]
        if others:
            with suppress(ProcessLookupError):
                os.kill(self._dice.choice(others), signal.SIGKILL)
        return lambda: wait_until(self._stack.takes_connections, "Postgres has recovered")

    def _cut_connections(self) -> Heal:
        async def cut() -> None:
            connection = await asyncpg.connect(self._stack.places.postgres_url, timeout=5)
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
            await connection.fetch(others)
            await connection.close()

        with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):  # cut off by another kind
            asyncio.run(cut())
        return lambda: None

    @staticmethod
    def _cut_commit(cut: Callable[[bytes], None]) -> Heal:
        """The next one, of whichever process."""
        cut(b"COMMIT")
        return lambda: None

    def _kill_valkey(self) -> Heal:
        stack = self._stack
        os.kill(stack.valkey.pid, signal.SIGKILL)
        return lambda: restart_valkey(stack.valkey, stack.places)

    def _stall_valkey(self) -> Heal:
        pid = self._stack.valkey.pid
        os.kill(pid, signal.SIGSTOP)
        return lambda: os.kill(pid, signal.SIGCONT)

    def _empty_valkey(self) -> Heal:
        socket = str(self._stack.places.sockets / VALKEY_SOCKET)
        with redis.Redis(unix_socket_path=socket, db=CACHE_DATABASE) as client:
            client.flushdb()
        return lambda: None

    def _kill_everything(self) -> Heal:
        saga = self._stack.saga
        daemons: list[Daemon] = [saga.payments, *saga.workers, self._stack.web]
        self._dice.shuffle(daemons)
        heals = [self._kill_postgres(), self._kill_valkey(), *(self._kill(daemon) for daemon in daemons)]

        def heal() -> None:
            for one in heals:
                one()

        return heal


def _web_processes(web: Daemon) -> list[int]:
    """Those that serve, not their parent."""
    found = []
    for pid in processes_of(web.log.parent):
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found
