"""The bill of materials that `make sbom` writes: complete, with hashes, and valid by the schema of CycloneDX."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from project.tests.ci.test_pins import asked, pinned
from project.tests.service import ROOT


def hashes(component: dict[str, Any]) -> list[str]:
    return [digest["content"] for file in component["externalReferences"] for digest in file["hashes"]]


def test_the_bill_names_all_that_runs_with_hashes_licences_and_who_needs_whom(tmp_path: Path) -> None:
    file = tmp_path / "sbom.cdx.json"
    subprocess.run(
        [sys.executable, ROOT / ".ci/sbom.py", ROOT / "requirements.txt", file], env={}, check=True, timeout=60
    )
    text = file.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert {part["name"]: part["version"] for part in bill["components"]} == pinned("requirements")
    lock = (ROOT / "requirements.txt").read_text()
    assert sorted(digest for part in bill["components"] for digest in hashes(part)) == sorted(
        line.split("sha256:")[1].split()[0] for line in lock.splitlines() if "--hash" in line
    )
    licences = {part["name"]: part.get("licenses") for part in bill["components"]}
    assert licences["fastapi"] == [{"license": {"id": "MIT"}}]
    assert sum(licence is None for licence in licences.values()) <= 3  # what only other platforms install
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    assert len(needs["claim_process"]) == len(list(asked("requirements")))
    assert (
        f"pkg:pypi/starlette@{pinned('requirements')['starlette']}"
        in needs[f"pkg:pypi/fastapi@{pinned('requirements')['fastapi']}"]
    )
