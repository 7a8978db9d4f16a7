"""Every metric of a worker. One process serves them (METRICS_PORT), so they live in memory; called by the saga.

Gauges that are read from the database come from `gauges`, in one worker only. What alert rules look at is there from
the start, as 0.
"""

from prometheus_client import Counter, Gauge, Histogram

_CALL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_TO_PAID_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0)

ATTEMPTS = Counter("payment_attempts_total", "Calls for a payment: paid, refused, unavailable, unknown.", ["result"])
CALL_SECONDS = Histogram("payment_call_seconds", "Calls to payments: pay, cancel.", ["call"], buckets=_CALL_S)
BREAKER_STATE = Gauge(
    "payments_breaker_state", "0 closed, 1 half-open, 2 open: no payment is taken; -1 new, not answered."
)
TO_PAID_SECONDS = Histogram(
    "claim_accepted_to_paid_seconds", "From a claim's acceptance to its payment; redrives left out.", buckets=_TO_PAID_S
)
PAID = Counter("claims_paid_total", "Claims paid.")
GIVEN_UP = Counter("claims_given_up_total", "Payments refused or exhausted; each is a dead letter.", ["reason"])
REVERSED = Counter("claims_reversed_total", "Claims taken back after payments confirmed the cancellation.")
CANCEL_FAILURES = Counter("payment_cancel_failures_total", "Cancellations that were not confirmed; tried again.")
SETTLE_FAILURES = Counter("saga_settle_failures_total", "Settling transactions that did not commit.", ["reason"])
SETTLE_BATCH = Histogram("saga_settle_batch", "Outcomes in one commit.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
FENCED = Counter("saga_fenced_total", "Outcomes that changed nothing, because another worker had moved the claim on.")
IN_FLIGHT = Gauge("saga_in_flight", "Leased payments in this worker's hands.", ["lane"])
EVENTS_PUBLISHED = Counter("events_published_total", "Events that the hub took.")
HUB_FAILURES = Counter("event_hub_failures_total", "Rounds of publishing that the hub did not take.")
EXPIRED = Counter("housekeeping_deleted_total", "Rows past their retention that were deleted.", ["table"])
HOUSE_KEPT = Gauge("housekeeping_done_timestamp_seconds", "When this worker last kept house to the end; 0: never yet.")

for _result in ("paid", "refused", "unavailable", "unknown"):
    ATTEMPTS.labels(_result)
for _reason in ("refused", "exhausted"):
    GIVEN_UP.labels(_reason)
for _call in ("pay", "cancel"):
    CALL_SECONDS.labels(_call)
for _reason in ("database_away", "statement"):
    SETTLE_FAILURES.labels(_reason)
for _lane in ("pay", "reverse"):
    IN_FLIGHT.labels(_lane)
for _table in ("idempotency_key", "dead_letter"):
    EXPIRED.labels(_table)
