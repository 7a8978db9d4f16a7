"""docs/operations.md as an operator follows it: its marked commands are run as they stand there. Used by drills.

A block of commands is marked by a comment in the line before it, `<!-- run: NAME -->`, and is indented by at least four.
"""

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from project.tests.service import ROOT, environment

DOCUMENT = ROOT / "docs" / "operations.md"


def commands(name: str) -> str:
    """The commands of the block of that name."""
    text = DOCUMENT.read_text()
    block = re.search(rf"^<!-- run: {name} -->\n\n?((?:    .*\n|\n)+)", text, re.MULTILINE)
    assert block, f"docs/operations.md has no block {name}"
    return dedent(block[1])


class Operator:
    """Someone who has followed "The words used here" for this data folder, and now follows other blocks."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self._environment = environment(data_dir, python=sys.executable, **settings)
        words = commands("words").replace(".venv/bin/python", sys.executable)
        told = self._run(f'{words}\nprintf "%s\\n" "$bin" "$url"').splitlines()
        self._environment |= dict(zip(("bin", "url"), told, strict=True))

    def does(self, *names: str) -> str:
        """Runs the blocks in one shell that stops at the first failure; what they print."""
        return self._run("\n".join(commands(name) for name in names))

    def _run(self, script: str) -> str:
        argv = ["sh", "-eu", "-c", script]
        done = subprocess.run(argv, cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
