"""What a person is told while files are imported: a bar on a terminal, else a line now and then. For `commands`."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from project.imports.run import Progress as Done

LINE_EVERY_S = 10.0


def told(done: Done, since: float) -> str:
    """How far it is, in words. `since`: when it began, of the monotonic clock."""
    run = done.run
    lines_a_second = (run.lines - done.before.lines) / max(time.monotonic() - since, 0.001)
    return f"{run.accepted:,} claims, {run.refused:,} refused, {lines_a_second:,.0f} lines/s"


@contextmanager
def shown(path: Path) -> Iterator[Callable[[Done], None]]:
    """Shows what is told to it, on standard error."""
    since = time.monotonic()
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}", markup=False),  # the file's name, whatever it is made of
            BarColumn(20),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[words]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(path.name, total=None, words="")
            yield lambda done: bar.update(task, total=done.size, completed=done.done, words=told(done, since))
        return
    said = since

    def say(done: Done) -> None:
        nonlocal said
        if time.monotonic() - said >= LINE_EVERY_S:
            said = time.monotonic()
            share = 100 * done.done // max(done.size, 1)
            typer.echo(f"claim_process: {path}: {share} %, {told(done, since)}", err=True)

    yield say
