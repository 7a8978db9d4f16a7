"""Rows about the memory of the processes over many claims. Called by `__main__`, before what posts anything but
claims of two lines to the same web process.
"""

from collections.abc import Iterator, Sequence

from bench.ground import Curve, Ground
from bench.rows import Row, Spec
from project.settings import MEBIBYTE

LIMIT_MB = 150.0
ROUND_S = 10  # between two points of the curve
_STEP_S = 1  # between two of the samples that are compared

SPECS = (
    Spec(
        "memory-web", "memory of the web process after 1,000,000 claims", "after 10,000",
        "resident memory, as the kernel counts it; the claims come as in the first row, and are paid meanwhile",
        1.1, "MiB", at_most=True,
    ),
    Spec(
        "memory-web-limit", "memory of the web process after 1,000,000 claims", "150 MB",
        "the same against what it may have at most",
        1.0, "MB", at_most=True,
    ),
    Spec(
        "memory-worker", "memory of the worker after 1,000,000 claims", "after 10,000",
        "the same of the process that pays and publishes them",
        1.1, "MiB", at_most=True,
    ),
)  # fmt: skip


def begin(ground: Ground) -> None:
    """The first samples, while the service is young; to be called before anything else is measured."""
    _load_until(ground, ground.plan.memory_first)
    ground.first_samples = ground.samples[-ground.plan.memory_samples :]


def measure(ground: Ground, wanted: Sequence[Spec]) -> Iterator[Row]:
    """The rows that are wanted. What other families have posted since `begin` counts."""
    first = ground.first_samples
    _load_until(ground, ground.plan.memory_last)
    last = ground.samples[-ground.plan.memory_samples :]
    print(
        f"  web {last[-1].web:.0f} MiB, worker {last[-1].worker:.0f} MiB after {last[-1].claims:,} claims", flush=True
    )
    ground.curves.append(_curve(ground))
    note = f"{first[0].claims:,} to {first[-1].claims:,} claims, and {last[0].claims:,} to {last[-1].claims:,}"
    for spec in wanted:
        name = "worker" if spec.key == "memory-worker" else "web"
        then, now = ([float(getattr(sample, name)) for sample in samples] for samples in (first, last))
        if spec.key == "memory-web-limit":
            yield Row(spec, [mib * MEBIBYTE / 1e6 for mib in now], [LIMIT_MB] * len(now), note)
        else:
            yield Row(spec, now, then, note)


def _load_until(ground: Ground, claims: int) -> None:
    """Posts until so many were taken in, then takes some samples, a short load between each."""
    while ground.sample().claims < claims:
        ground.intake(ground.service.url, "uniform", min(ROUND_S, ground.plan.warm_s) if claims < 10**5 else ROUND_S)
    for _ in range(ground.plan.memory_samples):
        ground.intake(ground.service.url, "uniform", _STEP_S)


def _curve(ground: Ground) -> Curve:
    """Over all claims that the web process has taken in."""
    return Curve(
        "memory",
        "Resident memory of the processes",
        "claims taken in",
        "MiB",
        series={
            name: [(sample.claims, float(getattr(sample, name))) for sample in ground.samples]
            for name in ("web", "worker")
        },
    )
