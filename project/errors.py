"""The service's errors: one tree, each says what happened and what the caller can do.

    ServiceError
    ├── SettingsError           a setting is wrong: mend the environment and start again
    ├── EngineError             an embedded engine could not be started: the message says which and why
    └── Problem                 an answer of RFC 9457 (application/problem+json), raised anywhere under a route
        ├── Overloaded          503: nothing was stored, try again after `retry_after` seconds
        ├── DatabaseAway        503: nothing was stored, try again after `retry_after` seconds
        └── OutcomeUnknown      503: the commit's answer was lost; look the claim up by its id before trying again

`app` turns a Problem into its answer. No text here ever holds a value that a client sent.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID


class ServiceError(Exception):
    """Anything that the service itself reports."""


class SettingsError(ServiceError):
    """A setting is missing or wrong."""


class EngineError(ServiceError):
    """An embedded engine cannot be started or used; the message is one line for a person."""


class Problem(ServiceError):
    """An HTTP error answer; `extra` holds further members of the problem object (RFC 9457, 3.2)."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str | None = None,
        *,
        kind: str = "about:blank",
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.detail = detail
        self.kind = kind
        self.headers = dict(headers or {})
        self.extra = extra

    def body(self) -> dict[str, Any]:
        """The problem object, ready to be written as JSON."""
        members: dict[str, Any] = {"type": self.kind, "title": self.title, "status": self.status}
        if self.detail is not None:
            members["detail"] = self.detail
        return members | self.extra


class Overloaded(Problem):
    """More claims wait for their commit than the queue may hold, or the process is shutting down."""

    def __init__(self, detail: str = "too many claims wait for their commit; nothing was stored") -> None:
        super().__init__(503, "Overloaded", detail, kind="/problems/overloaded", headers={"Retry-After": "1"})


class DatabaseAway(Problem):
    """The database did not take the claim in time; it certainly stored nothing of it."""

    def __init__(self) -> None:
        detail = "the database cannot be reached; nothing was stored"
        super().__init__(503, "Database away", detail, kind="/problems/database-away", headers={"Retry-After": "2"})


class OutcomeUnknown(Problem):
    """The connection died in COMMIT and the outcome could not be looked up; the claim's id lets the caller ask."""

    def __init__(self, claim_id: UUID) -> None:
        super().__init__(
            503,
            "Outcome unknown",
            "the claim may or may not have been stored; GET it by its id before sending it again",
            kind="/problems/outcome-unknown",
            headers={"Retry-After": "2"},
            id=str(claim_id),
        )
