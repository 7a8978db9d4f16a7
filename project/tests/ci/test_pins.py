"""The lock files: everything pinned by hash, up to date with what requirements*.in ask for, free of anybody's machine."""

import re
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from project.tests.service import ROOT

PIN = re.compile(r"(?P<name>[a-z0-9.-]+)==(?P<version>[^ ;]+)(?P<marker> ; [^\\]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
LOCKS = ("requirements", "requirements-test", "requirements-bench")


def asked(name: str) -> Iterator[Requirement]:
    """What a .in file asks for directly, with that of the file which it takes in."""
    for line in (ROOT / f"{name}.in").read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            yield from asked(text.removeprefix("-r ").removesuffix(".in"))
        elif text and not text.startswith("-c "):
            yield Requirement(text)


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / f"{name}.txt").read_text().splitlines()
    pins = [pin for pin in map(PIN.fullmatch, lines) if pin]
    assert len({pin["name"] for pin in pins}) == len(pins)
    return {pin["name"]: pin["version"] for pin in pins}


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_is_a_pin_followed_by_its_hashes(name: str) -> None:
    lines = [line for line in (ROOT / f"{name}.txt").read_text().splitlines() if not line.lstrip().startswith("#")]
    assert [line for line in lines if not PIN.fullmatch(line) and not HASH.fullmatch(line)] == []
    pairs = zip(lines, [*lines[1:], ""], strict=True)
    assert [line for line, following in pairs if PIN.fullmatch(line) and not HASH.fullmatch(following)] == []
    assert len(pinned(name)) > 10


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_index_and_no_path(name: str) -> None:
    text = (ROOT / f"{name}.txt").read_text()
    assert [word for word in ("://", "--index-url", "--find-links", " @ ", "/home/", "/root/") if word in text] == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_direct_requirement_is_pinned_to_a_version_that_satisfies_it(name: str) -> None:
    pins = pinned(name)
    unmet = [
        str(requirement)
        for requirement in asked(name)
        if not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"))
    ]
    assert unmet == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_no_direct_requirement_that_was_dropped(name: str) -> None:
    lock = (ROOT / f"{name}.txt").read_text()
    entries = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)
    direct = {entry.partition("==")[0] for entry in entries if re.search(r"-r requirements(-test|-bench)?\.in", entry)}
    assert direct == {canonicalize_name(requirement.name) for requirement in asked(name)}


def test_what_is_tested_is_what_ships_and_what_is_measured() -> None:
    tested, measured = pinned("requirements-test"), pinned("requirements-bench")
    assert {name: tested.get(name) for name in pinned("requirements")} == pinned("requirements")
    assert {name: tested[name] for name in measured if name in tested} == {
        name: measured[name] for name in measured if name in tested
    }
