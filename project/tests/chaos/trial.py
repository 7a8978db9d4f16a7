"""One trial of chaos: load, violence, peace, verdict. Called by `make chaos` and by flows/test_chaos.py."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from project.tests.chaos import clients, verdict
from project.tests.chaos.clients import Client
from project.tests.chaos.stack import standing
from project.tests.chaos.violence import Violence

ANSWERED_WITHIN_S = 7.0  # five are promised; the clients themselves may wait for a busy machine


@dataclass(frozen=True)
class Trial:
    """What happened. `complaints` are what did not hold; `slowest_s` is of answers while web itself was not hurt."""

    seed: int
    seconds: float
    quiet_after_s: float
    posted: int
    answers: Counter[int]
    lost: Counter[str]
    slowest_s: float
    events: dict[str, int]
    violence: Counter[str]
    complaints: list[str]

    def told(self) -> str:
        """For a person."""
        rows = [
            f"seed       {self.seed}, {self.seconds:.0f} s of violence, quiet {self.quiet_after_s:.1f} s after it",
            f"posted     {self.posted} claims",
            f"answers    {_listed(self.answers)}; slowest {self.slowest_s:.2f} s",
            f"no answer  {_listed(self.lost)}",
            f"claims     {_listed(self.events)}",
            f"violence   {self.violence.total()}: {_listed(self.violence)}",
            *(f"VIOLATED   {complaint}" for complaint in self.complaints),
            "verdict    " + ("NOT sound" if self.complaints else "sound"),
        ]
        return "\n".join(rows)


def _listed(counts: Counter[str] | Counter[int] | dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=str)) or "none"


def hold(folder: Path, seed: int, seconds: float) -> Trial:
    """Hurts a whole service for so many seconds, in a way that follows from the seed, kills all of it at once, and
    judges what is found once it runs again.
    """
    with standing(folder) as stack:
        violence = Violence(stack, random.Random(seed))
        with clients.busy(stack.web.url, seed) as posting:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                violence.strike()
            violence.strike_everything()
        stack.saga.payments.behave()
        ended = time.monotonic()
        found = verdict.complaints(stack, posting)
        quiet_after_s = time.monotonic() - ended
        slowest_s = _slowest(posting, violence)
        if slowest_s > ANSWERED_WITHIN_S:
            found.append(f"an answer took {slowest_s:.1f} s")
        kinds = dict(stack.saga.fetch("SELECT type, count(*) FROM claim_event GROUP BY 1"))
        return Trial(
            seed=seed,
            seconds=seconds,
            quiet_after_s=quiet_after_s,
            posted=sum(len(client.posted) for client in posting),
            answers=Counter(answer.status for client in posting for answer in client.answers),
            lost=sum((client.lost for client in posting), Counter()),
            slowest_s=slowest_s,
            events={kind.removeprefix("claim."): count for kind, count in kinds.items()},
            violence=violence.done,
            complaints=found,
        )


def _slowest(posting: Sequence[Client], violence: Violence) -> float:
    """The longest time to an answer, of requests during which web itself was not hurt."""
    took = [
        answer.answered - answer.sent
        for client in posting
        for answer in client.answers
        if not any(answer.sent < end and start < answer.answered for start, end in violence.web_away)
    ]
    return max(took, default=0.0)
