"""Claims put into a database through the ledger itself, for tests that need rows to be there."""

from collections.abc import Sequence
from decimal import Decimal

from project import db, wire
from project.claims import intake
from project.claims.batch import NewClaim, Outcome
from project.claims.ledger import Ledger
from project.ids import new_id
from project.tests.service import line


def new_claim(
    *lines: dict[str, object],
    client: str = "local",
    number: str | None = None,
    key: str | None = None,
    print_: str = "",
) -> NewClaim:
    """A parsed claim of these lines, or of one valid line."""
    body = wire.encode({"claim_number": number, "lines": list(lines) or [line()]})
    parsed = intake.parse("json", body, 10_000, "off")
    return NewClaim(new_id(), client, parsed, key, print_.encode())


def ledger(database_url: str, *, queue_lines: int = 200_000, retention_s: int = 86_400) -> Ledger:
    """A started ledger; its caller closes it."""
    made = Ledger(lambda: db.connect(database_url), queue_lines=queue_lines, retention_s=retention_s)
    made.start()
    return made


async def store(database_url: str, claims: Sequence[NewClaim]) -> list[Outcome]:
    """Submits the claims through a ledger of their own."""
    writer = ledger(database_url)
    try:
        return await writer.submit(claims)
    finally:
        await writer.close()


async def store_claims(database_url: str, count: int) -> list[Outcome]:
    """`count` claims of two lines each."""
    return await store(database_url, [new_claim(line(), line(provider_fees=Decimal("1.10"))) for _ in range(count)])
