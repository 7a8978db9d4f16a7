"""Known vulnerabilities of everything that is pinned: `make audit`, a part of `make check`.

pip-audit asks PyPI, else OSV. Exit code 1: a vulnerability that nobody accepted, or files that cannot be audited. Exit
code 0 with the word "skipped": no advisory service can be reached, so nothing is known.
"""

import argparse
import ast
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# A mirror of PyPI may answer without its advisories, which would look like a clean bill: a service must know this one.
CANARY = f"django==1.8 --hash=sha256:{'0' * 64}\n"
CANARY_WITHIN_S = 10.0
SOCKET_WITHIN_S = 5
READ_WITHIN_S = 60.0  # the files alone: half a second, and more on a busy machine
SERVICES = {"PyPI": ("--vulnerability-service=pypi",), "OSV": ("--vulnerability-service=osv",)}
ACCEPTED = Path(__file__).with_name("accepted-vulnerabilities.toml")

Answer = list[dict[str, Any]]


class NoAnswerError(Exception):
    """pip-audit came to no end: its service cannot be reached, is too slow, or is no advisory service."""


def everything_pinned(files: Sequence[Path]) -> str:
    """The requirements of all files; without markers, as pip-audit leaves out what this machine would not install."""
    lines = "\n".join(file.read_text() for file in files).replace("\\\n", " ").splitlines()
    pins = {
        re.sub(r";.*?(?=--hash|$)", "", line) for line in map(str.strip, lines) if line and not line.startswith("#")
    }
    return "\n".join(sorted(pins))


def network() -> dict[str, str]:
    """The environment in which pip-audit reaches the network as pip does: by its proxy, trusting its certificates."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    pip = {
        name.rpartition(".")[2]: str(ast.literal_eval(value))
        for name, _, value in (line.partition("=") for line in listed.stdout.splitlines())
        if name.endswith((".cert", ".proxy"))
    }
    found = {
        "REQUESTS_CA_BUNDLE": pip.get("cert") or ssl.get_default_verify_paths().cafile,
        "HTTPS_PROXY": pip.get("proxy"),
    }
    taken = {name.upper() for name, value in os.environ.items() if value}
    taken |= {"HTTPS_PROXY"} if "ALL_PROXY" in taken else set()
    taken |= {"REQUESTS_CA_BUNDLE"} if "CURL_CA_BUNDLE" in taken else set()
    return dict(os.environ) | {name: value for name, value in found.items() if value and name not in taken}


def ask(service: Sequence[str], requirements: str, environment: dict[str, str], within_s: float) -> Answer:
    """pip-audit's answer, which it writes only when it came to an end. Nothing is installed, nothing resolved."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "requirements.txt"), Path(folder, "answer.json")
        asked.write_text(requirements)
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner=off"]
        command += ["--format=json", f"--timeout={SOCKET_WITHIN_S}", f"--cache-dir={folder}", *service]
        command += [f"--requirement={asked}", f"--output={answer}"]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=max(within_s, 0.1), check=False
            )
        except subprocess.TimeoutExpired as late:
            raise NoAnswerError(f"no answer within {within_s:.0f} s") from late
        if not answer.exists():
            raise NoAnswerError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
        dependencies: Answer = json.loads(answer.read_text())["dependencies"]
        return dependencies


def ask_who_knows(services: dict[str, Sequence[str]], requirements: str, within_s: float) -> Answer:
    """The answer of the first service that knows the canary. Raises NoAnswerError that says what each one did."""
    environment, deadline, reasons = network(), time.monotonic() + within_s, []
    for name, service in services.items():
        try:
            known = ask(service, CANARY, environment, min(CANARY_WITHIN_S, deadline - time.monotonic()))
            if any(package.get("vulns") for package in known):
                return ask(service, requirements, environment, deadline - time.monotonic())
            reasons.append(f"{name}: serves no advisories")
        except NoAnswerError as failed:
            # The kind of failure is enough: a longer text could carry the password of a proxy.
            kind = re.match(r"no answer within \d+ s|[\w.]+(?:Error|Timeout)\b", str(failed))
            reasons.append(f"{name}: {kind[0] if kind else 'no connection'}")
    raise NoAnswerError("; ".join(reasons))


def refuse_unfit(requirements: str) -> None:
    """Ends with a failure where no answer came because of the requirements themselves: a dry run asks nobody."""
    try:
        ask(["--dry-run"], requirements, dict(os.environ), READ_WITHIN_S)
    except NoAnswerError as unfit:
        sys.exit(f"audit failed: the requirements cannot be audited: {unfit}")


def judge(answer: Answer, accepted: dict[str, str]) -> Iterator[str]:
    """One line for each vulnerability that nobody accepted."""
    met: set[str] = set()
    for package in answer:
        if reason := package.get("skip_reason"):
            print(f"audit: not audited: {reason}")
        for vulnerability in package.get("vulns", ()):
            ids = [vulnerability["id"], *vulnerability["aliases"]]
            met |= accepted.keys() & ids
            if accepted.keys().isdisjoint(ids):
                fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
                yield f"{package['name']} {package['version']}: {' = '.join(ids)}, fixed in {fixed}"
    for needless in sorted(accepted.keys() - met):
        print(f"audit: {needless} is accepted but no longer found: drop it from the list")


def read_accepted(file: Path) -> dict[str, str]:
    accepted: dict[str, str] = tomllib.loads(file.read_text())
    if silent := [name for name, reason in accepted.items() if not str(reason).strip()]:
        sys.exit(f"audit failed: {file.name} gives no reason for {', '.join(silent)}")
    return accepted


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Known vulnerabilities of pinned requirements.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--accepted", type=Path, default=ACCEPTED, help="TOML: id = reason")
    parser.add_argument("--osv-url", help="ask this service, which speaks OSV's API, instead of PyPI and OSV")
    parser.add_argument("--seconds", type=float, default=60.0, help="skipped when it takes longer in all")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    accepted, requirements = read_accepted(options.accepted), everything_pinned(options.files)
    services: dict[str, Sequence[str]] = dict(SERVICES)
    if options.osv_url:
        services = {"OSV": (*SERVICES["OSV"], f"--osv-url={options.osv_url}")}
    try:
        answer = ask_who_knows(services, requirements, options.seconds)
    except NoAnswerError as unreachable:
        refuse_unfit(requirements)
        print(f"audit skipped: no advisory service can be reached ({unreachable})")
        return
    if refused := list(judge(answer, accepted)):
        print("\n".join(refused))
        sys.exit(f"audit failed: {len(refused)} known vulnerabilities; upgrade (make lock) or see {options.accepted}")
    print(f"audit passed: {len(answer)} pinned packages, none with a known vulnerability that is not accepted")


if __name__ == "__main__":
    main()
