"""Which `traceparent` headers count: W3C Trace Context, 3.2."""

import pytest

from project.telemetry.trace_context import accepted, trace_id

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"  # pragma: allowlist secret
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("header", [GOOD, f" {GOOD}\t", f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-may-come"])
def test_a_well_formed_one_is_taken_in_the_form_of_version_00(header: str) -> None:
    assert accepted(header) == GOOD
    assert trace_id(GOOD) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01\n-x",
        f"00-{TRACE}-{SPAN}-٠١",
        GOOD * 100,
    ],
)
def test_anything_else_counts_as_none(header: str) -> None:
    assert accepted(header) is None
