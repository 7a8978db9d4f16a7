"""The net fee, in one place. Pure; called by `rules` for a line and by `intake` for a claim.

Decimal addition of two-decimal amounts is exact: the largest claim (10,000 lines of ten digits before the point) has
17 digits, and the context keeps 28.
"""

from collections.abc import Iterable
from decimal import Decimal

ZERO = Decimal("0.00")


def line_net_fee(
    provider_fees: Decimal, allowed_fees: Decimal, member_co_ins: Decimal, member_co_pay: Decimal
) -> Decimal:
    """provider fees + member coinsurance + member copay - allowed fees, in USD; may be zero or negative."""
    return provider_fees + member_co_ins + member_co_pay - allowed_fees


def claim_net_fee(line_net_fees: Iterable[Decimal]) -> Decimal:
    """The sum over the lines, in USD."""
    return sum(line_net_fees, ZERO)
