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
    "--enable-logging=stderr",  # the page's console, where the browser tells what a policy kept it from
]

LOGO_FROM_ELSEWHERE = "cdn.redoc.ly/redoc/logo-mini.svg"  # the one thing that ReDoc would fetch, and may not


def rendered(url: str, profile: Path) -> str:
    """The page's document after its scripts have run, all of them allowed by its own Content-Security-Policy."""
    argv = ["chromium", *ALONE, f"--user-data-dir={profile}", "--dump-dom", url]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    kept_off = [row for row in done.stderr.splitlines() if "Content Security Policy" in row]
    assert [row for row in kept_off if LOGO_FROM_ELSEWHERE not in row] == []
    return done.stdout


def test_swagger_ui_shows_every_operation(service: Service, tmp_path: Path) -> None:
    page = rendered(f"{service.url}/docs", tmp_path)
    for summary in ("Take in a claim", "List claims, newest first", "The providers with the highest net fees"):
        assert summary in page


def test_redoc_shows_the_columns_of_a_line(service: Service, tmp_path: Path) -> None:
    page = rendered(f"{service.url}/redoc", tmp_path)
    for words in ("Take in a claim", "service_dttm", "member_co_pay", "Idempotency-Key"):
        assert words in page
