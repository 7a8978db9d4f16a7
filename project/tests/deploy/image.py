"""What the Dockerfile makes, made without a container engine: its files, its environment, its words. Used by the tests.

The files are copied as COPY would, with what .dockerignore leaves; the packages are those of requirements.txt alone.
"""

import json
import os
import re
import shutil
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

from project.tests.ci.test_pins import pinned
from project.tests.service import ROOT


@dataclass(frozen=True)
class Instruction:
    """As in `COPY --from=build /app /app`; `stage` is the name of the stage that it stands in."""

    stage: str
    word: str
    rest: str


def instructions(file: Path) -> Iterator[Instruction]:
    """All of a Dockerfile, continued lines joined, comments gone."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    stage = ""
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.partition(" AS ")[2]
        if word:
            yield Instruction(stage, word, rest.strip())


@dataclass(frozen=True)
class Dockerfile:
    """The instructions of the last stage, which is the image, and what it is built from."""

    all: list[Instruction]

    @classmethod
    def read(cls, file: Path = ROOT / "Dockerfile") -> "Dockerfile":
        return cls(list(instructions(file)))

    @property
    def stage(self) -> str:
        return self.all[-1].stage

    def rest(self, word: str) -> list[str]:
        """What follows each `word` of the last stage."""
        return [one.rest for one in self.all if one.stage == self.stage and one.word == word]

    def words(self, word: str) -> list[str]:
        """ENTRYPOINT or CMD in its JSON form."""
        (rest,) = self.rest(word)
        return [str(part) for part in json.loads(rest)]

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for rest in self.rest("ENV") for pair in rest.split())

    @property
    def health_test(self) -> list[str]:
        (rest,) = self.rest("HEALTHCHECK")
        return [str(part) for part in json.loads(rest.partition("CMD ")[2])]


class Context:
    """The checkout as a build sees it."""

    def __init__(self) -> None:
        lines = (ROOT / ".dockerignore").read_text().splitlines()
        self._patterns = [line for line in lines if line and not line.startswith("#")]

    def holds(self, path: PurePosixPath) -> bool:
        """By the last pattern that matches the path or a folder above it."""
        held = True
        for pattern in self._patterns:
            named = pattern.removeprefix("!")
            if any(_matches(part, named) for part in (path, *path.parents)):
                held = pattern.startswith("!")
        return held

    def files(self) -> Iterator[PurePosixPath]:
        for folder, folders, names in os.walk(ROOT):
            here = Path(folder).relative_to(ROOT)
            folders[:] = [name for name in folders if name not in (".git", ".venv", ".venv-lowest", "var")]
            for name in names:
                path = PurePosixPath(here / name)
                if self.holds(path):
                    yield path


def _matches(path: PurePosixPath, pattern: str) -> bool:
    """Docker's patterns, as far as we use them: `*` within a name, and `**/` for any folders before a name."""
    if pattern.startswith("**/"):
        return fnmatchcase(path.name, pattern.removeprefix("**/"))
    parts, wanted = path.parts, PurePosixPath(pattern).parts
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


class Image:
    """The image's files below a folder: `/app` and `/venv` as they would be at the root."""

    def __init__(self, root: Path) -> None:
        self.dockerfile = Dockerfile.read()
        self.app = root / "app"
        self._copy(root)
        self._make_environment(root / "venv")
        path = self.dockerfile.environment["PATH"].replace("/venv", str(root / "venv"))
        self.environment = self.dockerfile.environment | {"PATH": path.replace("$PATH", os.environ["PATH"])}

    def _copy(self, root: Path) -> None:
        files = list(Context().files())
        for one in self.dockerfile.all:
            *sources, target = one.rest.split()
            if one.word != "COPY" or sources[0].startswith("--from"):
                continue
            for source in map(PurePosixPath, sources):
                _copy_one(source, root / target.removeprefix("/"), files, into=target.endswith("/"))

    def _make_environment(self, folder: Path) -> None:
        """Without pip; the packages are links to those of requirements.txt that the tests run with."""
        venv.create(folder, symlinks=True, with_pip=False)
        (packages,) = folder.glob("lib/python3.*/site-packages")
        left_out = set(self.left_out())
        wanted = {canonicalize_name(name) for name in pinned("requirements")} - left_out
        for installed in metadata.distributions():
            if canonicalize_name(installed.metadata["Name"]) in wanted:
                _link(installed, packages)

    def left_out(self) -> list[str]:
        """The packages that the build uninstalls again."""
        runs = [
            one.rest for one in self.dockerfile.all if one.word == "RUN" and "/venv/bin/python uninstall" in one.rest
        ]
        return [word for word in runs[0].rpartition("uninstall --yes ")[2].split() if not word.startswith("-")]


def _copy_one(source: PurePosixPath, target: Path, files: list[PurePosixPath], *, into: bool) -> None:
    copied = False
    for path in files:
        if path != source and source not in path.parents:
            continue
        inner = path.relative_to(source)
        place = target / path.name if into and path == source else target / inner
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, place)
        copied = True
    assert copied, f"COPY {source}: nothing of that name gets into the build"


def _link(installed: metadata.Distribution, packages: Path) -> None:
    """Links what the distribution has put beside the others into `packages`."""
    home = Path(str(installed.locate_file("")))
    for name in {file.parts[0] for file in installed.files or [] if file.parts[0] not in ("..", "__pycache__")}:
        if not (packages / name).exists():
            (packages / name).symlink_to(home / name)
