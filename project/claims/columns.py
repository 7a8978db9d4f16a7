"""Incoming column names and what they mean. Pure; called by `intake`.

Upstream systems do not agree on names, so a name is folded (case, blanks, line breaks, punctuation, BOM dropped) and
looked up in one table. To understand another spelling, add it to ALIASES.
"""

import re
import unicodedata
from functools import lru_cache

FIELDS = (
    "service_dttm",
    "submitted_proc",
    "quadrant",
    "group_id",
    "subscriber_id",
    "provider_npi",
    "provider_fees",
    "allowed_fees",
    "member_co_ins",
    "member_co_pay",
)

# field -> other names, written as people write them; each is folded before it is compared
ALIASES: dict[str, tuple[str, ...]] = {
    "service_dttm": (
        "service date", "date of service", "dos", "service datetime", "service date time", "service dt",
        "procedure date",
    ),
    "submitted_proc": (
        "submitted procedure", "submitted procedure code", "procedure code", "procedure", "proc code",
        "cdt code", "cdt",
    ),
    "quadrant": ("quad", "oral cavity", "oral cavity code", "oral cavity designation"),
    "group_id": (
        "plan group", "plan/group number", "plan/group no", "plan/group id", "group number", "group no", "group",
        "plan number",
    ),
    "subscriber_id": (
        "subscriber", "subscriber number", "subscriber no", "member id", "member number", "member no",
    ),
    "provider_npi": ("npi", "npi number", "provider npi number", "billing provider npi", "rendering provider npi"),
    "provider_fees": ("provider fee", "provider fee amount", "provider fees amount", "submitted fees", "billed amount"),
    "allowed_fees": ("allowed fee", "allowed amount", "allowed", "fees allowed"),
    "member_co_ins": (
        "member coinsurance", "member co-insurance amount", "coinsurance", "coinsurance amount", "member coins",
    ),
    "member_co_pay": ("member copay", "member copayment", "copay", "copayment", "member copay amount", "copay amount"),
}  # fmt: skip

# What the service works out by itself; a claim that brings it along is mistaken about something.
COMPUTED = frozenset({"id", "claimid", "netfee", "netfees", "status", "receivedat"})

# What a file of many claims calls the column that tells them apart; folded, as "Claim #" is to "claim".
_CLAIM_NUMBER = frozenset({"claimnumber", "claimno", "claimnum", "claimnr", "claim"})

LONGEST_NAME = 128  # no name that we know is longer; longer ones must not fill the cache


@lru_cache(maxsize=4096)
def fold(name: str) -> str:
    """A name without case, blanks, line breaks, punctuation and BOM: "Plan/Group #" -> "plangroup".

    Width and ligature variants of letters and digits fold together (Unicode NFKC).
    """
    return "".join(char for char in unicodedata.normalize("NFKC", name).casefold() if char.isalnum())


_FIELD_OF = {fold(alias): field for field, aliases in ALIASES.items() for alias in (field, *aliases)}


def field_of(name: str) -> str | None:
    """The field that a column name means, or None."""
    return _FIELD_OF.get(fold(name)) if len(name) <= LONGEST_NAME else None


def is_computed(name: str) -> bool:
    """Whether the service itself works out what this column is called after."""
    return len(name) <= LONGEST_NAME and fold(name) in COMPUTED


def is_claim_number(name: str) -> bool:
    """Whether a column of this name tells the claims of a file apart."""
    return len(name) <= LONGEST_NAME and fold(name) in _CLAIM_NUMBER


_LIKE_A_NAME = re.compile(r"(?=.*[A-Za-z])(?!(?:[^0-9]*[0-9]){4})[A-Za-z0-9 _./#$%&()+:-]+\Z")


def shown(name: str, position: int) -> str:
    """How a fault names a column: by its name if it looks like one, else by its position, counted from 1.

    A name is input too: in a file without a header row the first line's values stand where the names should be, and
    a value is never repeated. Four digits, as in member ids, therefore do not look like a name, wherever they stand.
    """
    return name if len(name) <= 64 and _LIKE_A_NAME.match(name) else f"column {position}"
