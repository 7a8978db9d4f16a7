"""The alert rules before promtool: valid, and each fires when it must and not before."""

import subprocess
from pathlib import Path

import pytest
import yaml

from project.tests.prometheus import configuration
from project.tests.watching import PROMETHEUS, RULE_FILES, UNIT_TESTS

pytestmark = pytest.mark.system


def promtool(*words: str, cwd: Path = PROMETHEUS) -> str:
    """What promtool says; it must be content."""
    done = subprocess.run(["promtool", *words], cwd=cwd, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    return told


def test_the_shipped_files_are_valid() -> None:
    assert "is valid prometheus config file syntax" in promtool("check", "config", "--syntax-only", "prometheus.yml")
    promtool("check", "rules", *(str(file) for file in RULE_FILES))


def test_with_a_key_the_configuration_is_valid_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("cpk")
    shipped = configuration({"web": ["a:1"], "worker": ["a:2"], "prometheus": ["a:3"]}, tmp_path / "key")
    (tmp_path / "rules").symlink_to(PROMETHEUS / "rules")
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(shipped))
    assert f"{len(RULE_FILES)} rule files found" in promtool("check", "config", "prometheus.yml", cwd=tmp_path)


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_each_alert_fires_when_it_must_and_not_before(file: Path) -> None:
    promtool("test", "rules", str(file))
