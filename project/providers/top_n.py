"""The N best of a stream, kept in a bounded min-heap. Pure; called by `ranking`.

The heap holds at most N entries and its root is the weakest of them. A row that is not better than the root is
refused with one comparison; a better one replaces the root in O(log N). A stream of R rows therefore costs at most
O(R log N) time and O(N) memory, whatever its order.

A heap of the best cannot forget: to take one out it would need the N+1st, which it never kept. So it is made anew
from the running totals each time, and never is the store of anything (docs/top-provider.md).
"""

import heapq
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple


class Total(NamedTuple):
    """The net fees (USD) of a provider."""

    provider_npi: str
    net_fee: Decimal


class _Entry:
    """A total in the heap's order: the weaker one is the smaller net fee, and among equals the larger NPI."""

    __slots__ = ("total",)

    def __init__(self, total: Total) -> None:
        self.total = total

    def __lt__(self, other: "_Entry") -> bool:
        mine, theirs = self.total, other.total
        if mine.net_fee != theirs.net_fee:
            return mine.net_fee < theirs.net_fee
        return mine.provider_npi > theirs.provider_npi


def top_n(totals: Iterable[Total], n: int) -> list[Total]:
    """The `n` best of `totals`, highest net fee first, ties by NPI ascending; fewer if there are fewer.

    Each NPI must occur once: the totals are sums already.
    """
    if n < 1:
        return []
    heap: list[_Entry] = []
    for total in totals:
        entry = _Entry(total)
        if len(heap) < n:
            heapq.heappush(heap, entry)
        elif heap[0] < entry:
            heapq.heapreplace(heap, entry)
    return [heapq.heappop(heap).total for _ in range(len(heap))][::-1]
