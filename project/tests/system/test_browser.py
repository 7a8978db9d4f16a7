"""The documentation's pages in a real browser that can reach nothing but the service."""

import subprocess
from pathlib import Path

import pytest

from project.tests.service import Service

pytestmark = pytest.mark.system

ALONE = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--virtual-time-budget=20000",
]


def rendered(url: str, profile: Path) -> str:
    """The page's document after its scripts have run."""
    argv = ["chromium", *ALONE, f"--user-data-dir={profile}", "--dump-dom", url]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout


def test_swagger_ui_shows_every_operation(service: Service, tmp_path: Path) -> None:
    page = rendered(f"{service.url}/docs", tmp_path)
    for summary in ("Take in a claim", "List claims, newest first", "The providers with the highest net fees"):
        assert summary in page


def test_redoc_shows_the_columns_of_a_line(service: Service, tmp_path: Path) -> None:
    page = rendered(f"{service.url}/redoc", tmp_path)
    for words in ("Take in a claim", "service_dttm", "member_co_pay", "Idempotency-Key"):
        assert words in page
