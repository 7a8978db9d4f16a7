"""Secrets in the files of a checkout: a part of `make check`. Asks no network and needs no git.

Exit code 1 names file, line and kind of each finding, never the secret itself. A line that only looks like one ends
with a comment `pragma: allowlist secret`. There is no baseline: an old secret is as lost as a new one.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import scan_file
from detect_secrets.plugins.base import BasePlugin, RegexBasedDetector
from detect_secrets.settings import transient_settings


class ClaimProcessKeyDetector(RegexBasedDetector):
    """The API keys that this service itself gives out."""

    secret_type = "claim_process API key"  # noqa: S105  # pragma: allowlist secret
    denylist = (re.compile(r"cpk_[0-9a-f]{32}_[A-Za-z0-9_-]{43}"),)


# detect-secrets' own, without those that ask a network whether a secret still works or skip whole files by their name.
FILTERS = [
    {"path": f"detect_secrets.filters.{name}"}
    for name in (
        "allowlist.is_line_allowlisted",
        "heuristic.is_sequential_string",
        "heuristic.is_potential_uuid",
        "heuristic.is_templated_secret",
        "heuristic.is_prefixed_with_dollar_sign",
        "heuristic.is_indirect_reference",
        "heuristic.is_not_alphanumeric_string",
    )
]
HASHES_OF_LOCK_FILES = {
    "path": "detect_secrets.filters.regex.should_exclude_line",
    "pattern": [r"^ +--hash=sha256:[0-9a-f]{64}( \\)?$"],
}


def ignored(root: Path) -> list[str]:
    """Patterns of .gitignore, which keeps to plain names and folders: what is no part of the checkout."""
    file = root / ".gitignore"
    lines = file.read_text().splitlines() if file.exists() else []
    return [".git", *(line.rstrip("/") for line in lines if line and not line.startswith("#"))]


def present(root: Path, patterns: list[str]) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.is_symlink() or any(fnmatch(path.name, pattern) for pattern in patterns):
            continue
        if path.is_dir():
            yield from present(path, patterns)
        else:
            yield path


def tracked(root: Path) -> Iterator[Path]:
    """What git tracks, where there is git: an ignored file that was added all the same is published too."""
    try:
        listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, check=False)  # noqa: S607
    except FileNotFoundError:
        return
    for name in listed.stdout.decode().split("\0"):
        if name and (root / name).is_file() and not (root / name).is_symlink():
            yield root / name


def findings(root: Path) -> Iterator[tuple[str, int, str]]:
    """File, line and kind of each thing that looks like a secret."""
    theirs: Mapping[str, type[BasePlugin]] = get_mapping_from_secret_type_to_class()
    plugins = [{"name": plugin.__name__} for plugin in theirs.values()]
    get_mapping_from_secret_type_to_class.cache_clear()  # else our own below would not be looked for
    own = {"name": ClaimProcessKeyDetector.__name__, "path": f"file://{Path(__file__).resolve()}"}
    with transient_settings({"plugins_used": [*plugins, own], "filters_used": [*FILTERS, HASHES_OF_LOCK_FILES]}):
        for path in sorted({*present(root, ignored(root)), *tracked(root)}):
            for secret in scan_file(str(path)):
                yield str(path.relative_to(root)), secret.line_number, secret.type


def main() -> None:
    root = Path(sys.argv[1])
    found = sorted(set(findings(root)))
    for file, line, kind in found:
        print(f"{file}:{line}: {kind}")
    if found:
        sys.exit(f"secret scan failed: {len(found)} findings; a secret that was ever published has to be changed")
    print("secret scan passed")


if __name__ == "__main__":
    main()
