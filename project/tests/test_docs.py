"""What the documentation points at is there."""

import re
from pathlib import Path

import pytest

from bench.families import SPECS
from project.tests.service import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TEST = re.compile(r"`((?:[a-z_]+/)*test_[a-z_]+\.py)(?:::(test_\w+))?`")


def anchors(page: Path) -> set[str]:
    """The anchors of a page: those that it sets, and those of its headings, as they are made of their words."""
    text = page.read_text()
    made = {
        re.sub(r"[^\w\- ]", "", one.lower()).strip().replace(" ", "-") for one in re.findall(r"^#+ (.+)$", text, re.M)
    }
    fixed = re.findall(r'<a id="([a-z-]+)"></a>', text)
    assert len(fixed) == len(set(fixed))
    return made | set(fixed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_is_named_exists(page: Path) -> None:
    for file, name in _TEST.findall(page.read_text()):
        found = [path for path in (ROOT / "project" / "tests").rglob("test_*.py") if str(path).endswith(f"/{file}")]
        assert len(found) == 1, file
        assert not name or re.search(rf"^(async )?def {name}\(", found[0].read_text(), re.MULTILINE), f"{file}::{name}"


def test_security_answers_each_risk_of_the_list_with_a_test() -> None:
    rows = re.findall(r"^\| API(\d+) .*\|$", (ROOT / "docs" / "security.md").read_text(), re.MULTILINE)
    assert [int(number) for number in rows] == list(range(1, 11))
    for row in (ROOT / "docs" / "security.md").read_text().splitlines():
        assert not row.startswith("| API") or _TEST.search(row), row


def test_the_measured_table_has_every_row() -> None:
    """Where it was measured at all (`make bench`)."""
    page = ROOT / "docs" / "performance.md"
    rows = page.read_text() if page.exists() else "".join(spec.what for spec in SPECS)
    assert [spec.key for spec in SPECS if spec.what not in rows] == []
    assert len({spec.key for spec in SPECS}) == len(SPECS)
