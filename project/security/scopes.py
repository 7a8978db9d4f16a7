"""What a caller may do, and who a caller is. Pure; used by everything that serves or asks."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class Scope(StrEnum):
    """A permission. Each route declares one (`door.needs`) or that it is public (`door.PUBLIC`)."""

    CLAIMS_WRITE = "claims:write"
    CLAIMS_READ = "claims:read"
    PROVIDERS_READ = "providers:read"
    OPERATE = "operate"
    METRICS_READ = "metrics:read"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from. `name` is the client whose claims these are; several live keys may share one."""

    name: str
    scopes: frozenset[Scope]
    key_id: UUID | None = None

    @property
    def sees(self) -> str | None:
        """The client whose claims this caller may see; None: those of all clients."""
        return None if Scope.OPERATE in self.scopes else self.name


LOCAL = Caller("local", frozenset(Scope))
"""Everybody, as long as no API key was ever made; only this machine is let in then (`keyless`)."""
