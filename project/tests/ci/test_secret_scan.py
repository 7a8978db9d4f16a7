"""The secret scan of `make check`: what it refuses, what it lets pass, and that it never shows what it found."""

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from project.tests.service import ROOT

# Made here, so that this file holds nothing that looks like a secret.
OUR_KEY = f"cpk_{secrets.token_hex(16)}_{secrets.token_urlsafe(32)}"
AWS_KEY = "AKIA" + "Q3EGPZXW7LTM5RVA"
PRIVATE_KEY = "-----BEGIN " + "EC PRIVATE KEY-----"


def scan(tree: Path, path: str = os.defpath) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/secret_scan.py", tree],
        env={"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_each_secret_is_refused_by_file_and_line_and_not_shown(tmp_path: Path) -> None:
    write(tmp_path / "docs/notes.md", f"Ask with\n\n    curl -H 'Authorization: Bearer {OUR_KEY}'\n")
    write(tmp_path / "deploy.env", f"REGION=eu-west-1\nKEY_ID={AWS_KEY}\n")
    write(tmp_path / "project/tls.py", f'CERTIFICATE = """\n{PRIVATE_KEY}\n"""\n')
    code, said = scan(tmp_path, path=str(tmp_path / "no-git-here"))
    assert code == 1
    assert {
        "docs/notes.md:3: claim_process API key",
        "deploy.env:2: AWS Access Key",
        "project/tls.py:2: Private Key",
    } <= set(said)
    assert [line for line in said for secret in (OUR_KEY, AWS_KEY, PRIVATE_KEY) if secret in line] == []


def test_a_clean_tree_passes_without_git_and_what_is_ignored_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / ".gitignore", "# kept here\n.venv/\nvar/\n.env\n*.pyc\n")
    for ignored in (".venv/lib/key.py", "var/log", ".env", "project/key.pyc", ".git/config"):
        write(tmp_path / ignored, f"{OUR_KEY}\n{AWS_KEY}\n")
    write(tmp_path / "requirements.txt", f"jinja2==3.1.6 \\\n    --hash=sha256:{secrets.token_hex(32)}\n    # via us\n")
    write(tmp_path / "project/keys.py", f'KEY = "{AWS_KEY}"  # {"pragma"}: allowlist secret\n')
    (tmp_path / "elsewhere").symlink_to(tmp_path / "var")
    assert scan(tmp_path, path=str(tmp_path / "no-git-here")) == (0, ["secret scan passed"])


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_an_ignored_file_that_git_tracks_all_the_same_is_scanned(tmp_path: Path) -> None:
    write(tmp_path / ".gitignore", ".env\n")
    write(tmp_path / ".env", f"KEY={OUR_KEY}\n")
    for command in (["init", "-q"], ["add", "--force", ".env"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    code, said = scan(tmp_path, path=os.environ["PATH"])
    assert (code, said[0]) == (1, ".env:1: claim_process API key")
