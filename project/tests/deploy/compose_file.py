"""docker-compose.yml as a container engine would see it: read, its variables filled in. Used by the tests beside it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from project.tests.service import ROOT

FILE = ROOT / "docker-compose.yml"
VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Z_]+)(?P<default>:-[^}]*)?\}")


def filled(node: Any, variables: Mapping[str, str]) -> Any:
    """The tree with its ${VARIABLES} replaced."""
    if isinstance(node, dict):
        return {key: filled(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(value, variables) for value in node]
    if not isinstance(node, str):
        return node

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return variables.get(found["name"]) or (found["default"] or "").removeprefix(":-")

    return VARIABLE.sub(value, node)


def variables_of(text: str) -> set[str]:
    """The names of the ${VARIABLES} in a text."""
    return {found["name"] for found in VARIABLE.finditer(text) if found["name"]}


@dataclass(frozen=True)
class Mount:
    """Something that a container sees at `target`: a named volume, or a file or folder of the checkout."""

    source: str
    target: str
    read_only: bool

    @property
    def is_volume(self) -> bool:
        return not self.source.startswith((".", "/"))


@dataclass(frozen=True)
class ComposeService:
    """A service of the file."""

    name: str
    content: Mapping[str, Any]
    passed_on: Mapping[str, str]

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self.content.get(key, default)

    @property
    def is_ours(self) -> bool:
        """Whether it runs a process of ours, by the image's own entry point."""
        return self["image"].startswith("claim_process:") and "entrypoint" not in self.content

    @property
    def is_one_shot(self) -> bool:
        return bool(self.get("restart") == "no")

    @cached_property
    def environment(self) -> dict[str, str]:
        """What the container gets; names without a value are passed on if whoever runs compose has them set."""
        named = self.get("environment", {})
        return {
            name: self.passed_on[name] if value is None else value
            for name, value in named.items()
            if value is not None or name in self.passed_on
        }

    @property
    def names(self) -> list[str]:
        """What others may call it: its own name, and the aliases that it has in its networks."""
        networks = self.get("networks", [])
        told = networks.values() if isinstance(networks, dict) else []
        return [self.name, *(alias for network in told for alias in network["aliases"])]

    @property
    def mounts(self) -> Iterator[Mount]:
        for text in self.get("volumes", []):
            source, target, *mode = text.split(":")
            yield Mount(source, target, mode == ["ro"])

    @property
    def memory_folders(self) -> list[str]:
        """The targets of its tmpfs mounts."""
        return [text.partition(":")[0] for text in self.get("tmpfs", [])]

    @property
    def health_test(self) -> list[str] | None:
        """The command of its health check; None where there is none."""
        check = self.get("healthcheck", {})
        return None if check.get("disable") else check.get("test")

    @property
    def stop_grace_s(self) -> float:
        return float(self.get("stop_grace_period", "10s").removesuffix("s"))


class ComposeFile:
    """The file, for an operator who has set `variables`."""

    def __init__(self, **variables: str) -> None:
        self.text = FILE.read_text()
        self.content = filled(yaml.safe_load(self.text), variables)
        self.services = {
            name: ComposeService(name, content, variables) for name, content in self.content["services"].items()
        }

    def __getitem__(self, name: str) -> ComposeService:
        return self.services[name]

    def called(self, name: str) -> ComposeService:
        """The one service that is meant by a host's name."""
        [meant] = [service for service in self.services.values() if name in service.names]
        return meant
