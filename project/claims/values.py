"""What the value of each column may look like. Pure; called by `rules`.

A parser takes a value as JSON or CSV brought it (strings already trimmed, never empty) and returns it in its stored
form, or raises Broken with the rule that it breaks. It never repeats the value: it could be PHI.
"""

import re
from datetime import datetime
from decimal import Context, Decimal, InvalidOperation, Rounded
from functools import lru_cache
from typing import Final

CENT = Decimal("0.01")
_ZERO = Decimal("0.00")
MAX_CHARACTERS = 64
MAX_DIGITS = 10
LONGEST = 40  # no date and no amount is longer; longer ones must not fill the caches

# UR UL LL LR, and the oral-cavity designations of X12 837D (SV304): areas, quadrants, sides.
QUADRANTS = frozenset({"UR", "UL", "LL", "LR", "00", "01", "02", "09", "10", "20", "30", "40", "L", "R"})


class Broken(Exception):
    """A value breaks a rule. `detail` says what is expected instead, in fixed words."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(rule)
        self.rule = rule
        self.detail = detail


TEXT: Final = ("type", "must be a string")
LENGTH: Final = ("length", f"must have 1 to {MAX_CHARACTERS} characters")
CHARACTERS: Final = ("characters", "must not contain control characters or line breaks")
CDT: Final = ("cdt", "must be D and four digits")
NPI: Final = ("npi", "must be ten digits")
DATE: Final = ("date", "must be an ISO 8601 date or date-time, or month/day/year with an optional time")
AMOUNT: Final = ("amount", "must be a plain decimal amount, such as 1234.50")
MINIMUM: Final = ("minimum", "must not be negative")
DECIMALS: Final = ("decimals", "must have at most two decimals")
DIGITS: Final = ("digits", f"must have at most {MAX_DIGITS} digits before the point")

# C0, DEL, C1, the line and paragraph separators, surrogates: what breaks logs, terminals or the database.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def text(value: object) -> str:
    """1 to 64 characters, none of them a control character."""
    if not isinstance(value, str):
        raise Broken(*TEXT)
    if not 1 <= len(value) <= MAX_CHARACTERS:
        raise Broken(*LENGTH)
    if not value.isprintable() and _UNPRINTABLE.search(value):
        raise Broken(*CHARACTERS)
    return value


_CDT = re.compile(r"[Dd][0-9]{4}\Z")
_CDT_CHARACTERS = 5


def procedure(value: object) -> str:
    """A CDT code: D and four digits, case folded."""
    if not isinstance(value, str):
        raise Broken(*TEXT)
    if len(value) != _CDT_CHARACTERS:
        raise Broken(*CDT)
    return _procedure(value)


@lru_cache(maxsize=4096)  # there are some 800 codes
def _procedure(value: str) -> str:
    if not _CDT.match(value):
        raise Broken(*CDT)
    return value.upper()


def quadrant(value: object) -> str:
    """Case folded; whether the code is known is a warning, not a fault (see `rules`)."""
    return text(value).upper()


_NPI = re.compile(r"[0-9]{10}\Z")


def npi(value: object) -> str:
    """Ten ASCII digits, as a string or as an integer."""
    if isinstance(value, int) and not isinstance(value, bool) and 10**9 <= value < 10**10:
        return str(value)
    if not isinstance(value, str) or not _NPI.match(value):
        raise Broken(*NPI)
    return value


# The digit sum of twice a digit, under the digit's own code (bench: 1,000 lines).
_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))


def npi_check_digit_holds(number: str) -> bool:
    """Luhn's check over 80840 and the NPI (CMS, "NPI check digit"); 24 is what the prefix adds to the sum."""
    digits = number.encode()
    plain = sum(digits[1::2]) - 5 * ord("0")
    return (24 + sum(digits[0::2].translate(_DOUBLED)) + plain) % 10 == 0


_ISO = re.compile(
    r"(?P<y>\d{4})(?P<dash>-?)(?P<mo>\d\d)(?P=dash)(?P<d>\d\d)"
    r"(?:[Tt ](?P<h>[01]\d|2[0-3])(?::?(?P<m>[0-5]\d)(?::?(?P<s>[0-5]\d)(?:[.,](?P<f>\d{1,9}))?)?)?"
    r" ?(?:[Zz]|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?)?\Z",
    re.ASCII,
)
_US = re.compile(
    r"(?P<mo>\d{1,2})/(?P<d>\d{1,2})/(?P<y>\d{4}|\d\d)"
    r"(?: (?P<h>\d{1,2}):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d)(?:\.(?P<f>\d{1,9}))?)?(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?)?\Z",
    re.ASCII,
)


def service_time(value: object) -> datetime:
    """The wall clock of an ISO 8601 or US date, with or without a time; an offset is dropped, not applied.

    A service date must not shift to another day because a sender's clock stood in another zone. Years of two digits
    are those of POSIX: 69 to 99 are 1969 to 1999, 00 to 68 are 2000 to 2068.
    """
    if not isinstance(value, str):
        raise Broken(*TEXT)
    if len(value) > LONGEST:
        raise Broken(*DATE)
    return _wall_clock(value)


@lru_cache(maxsize=4096)
def _wall_clock(value: str) -> datetime:
    found = _ISO.match(value) or _US.match(value)
    if found is None:
        raise Broken(*DATE)
    part = found.groupdict()
    year = int(part["y"])
    if len(part["y"]) == 2:
        year += 1900 if year >= 69 else 2000
    microsecond = int((part["f"] or "0")[:6].ljust(6, "0"))
    try:
        return datetime(  # noqa: DTZ001  a wall clock
            year, int(part["mo"]), int(part["d"]), _hour(part), int(part["m"] or 0), int(part["s"] or 0), microsecond
        )
    except ValueError:
        raise Broken(*DATE) from None


def _hour(part: dict[str, str | None]) -> int:
    hour, half = int(part["h"] or 0), part.get("half")
    if half is None:
        return hour
    if not 1 <= hour <= 12:
        raise Broken(*DATE)
    return hour % 12 + (12 if half in "Pp" else 0)


# The usual spelling first; what it does not match is looked at closely, to say what is wrong with it.
_PLAIN = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,2})?\Z")
_MONEY = re.compile(
    r"(?P<sign>-?) *\$? *(?P<sign2>-?)(?P<whole>[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)?(?P<point>\.(?P<decimals>[0-9]+))?\Z"
)


def amount(value: object) -> Decimal:
    """A USD amount from a JSON number or a string, exact, with two decimals."""
    if isinstance(value, Decimal):
        return _amount_of_decimal(value)
    if isinstance(value, str):
        if len(value) > LONGEST:
            raise Broken(*AMOUNT)
        return _amount_of_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _amount_of_decimal(Decimal(value))
    raise Broken(*AMOUNT)


@lru_cache(maxsize=4096)
def _amount_of_text(value: str) -> Decimal:
    if _PLAIN.match(value):
        return Decimal(value).quantize(CENT)
    found = _MONEY.match(value)
    if found is None or (found["whole"] is None and found["point"] is None) or (found["sign"] and found["sign2"]):
        raise Broken(*AMOUNT)
    whole, decimals = (found["whole"] or "0").replace(",", ""), found["decimals"] or ""
    if len(whole) > MAX_DIGITS:
        raise Broken(*DIGITS)
    if len(decimals) > 2:
        raise Broken(*DECIMALS)
    exact = Decimal(f"{whole}.{decimals or 0}").quantize(CENT)
    if exact and (found["sign"] or found["sign2"]):
        raise Broken(*MINIMUM)
    return exact


_ALL_DIGITS = Context(prec=MAX_DIGITS + 2, traps=[Rounded, InvalidOperation])


def _amount_of_decimal(value: Decimal) -> Decimal:
    """In cents if it can be written so without dropping a digit; else what is wrong with it."""
    try:
        exact = _ALL_DIGITS.quantize(value, CENT)
    except (Rounded, InvalidOperation):
        return _looked_at_closely(value)
    if exact.is_signed() or (not exact and not -2 <= value.adjusted() < MAX_DIGITS):  # a zero has no digits to drop
        return _looked_at_closely(value)
    return exact


def _looked_at_closely(value: Decimal) -> Decimal:
    """Bounds are read off the exponents first, so that no huge number is ever written out."""
    if value.adjusted() >= MAX_DIGITS:
        raise Broken(*DIGITS)
    try:
        _ALL_DIGITS.plus(value)  # as_tuple would make an object of each digit, of which there may be millions
    except Rounded:
        raise Broken(*DECIMALS) from None
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -2:
        raise Broken(*DECIMALS)
    if value < 0:
        raise Broken(*MINIMUM)
    return abs(value).quantize(CENT) if value else _ZERO
