"""All SQL of the ledger, named, in the order in which a batch runs it. Called by `ledger` alone.

Every statement takes columns, one element a row, so that a batch of any size is one round trip each. Those of
KEYS, NUMBERS and totals are sorted by their caller: rows are locked in that order, in every process, so two batches
never wait for each other in a circle.

KEYS and NUMBERS never wait for another process either: a row that a transaction elsewhere is about to write is
guarded by an advisory lock that is tried, not awaited (`pg_try_advisory_xact_lock`). A claim that does not get the
lock leaves the batch and tries again a moment later, so it cannot hold up the claims beside it.
"""

# The first half of the advisory locks' names; any two different constants would do.
KEY_LOCK = 7_260_415
NUMBER_LOCK = 7_260_416

# $1 client[], $2 key[], $3 claim_id[], $4 fingerprint[], $5 retention.
# An expired key counts as absent: it is taken over.
KEYS = f"""
INSERT INTO idempotency_key AS held (client, key, claim_id, fingerprint, created_at)
SELECT client, key, claim_id, fingerprint, now()
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[]) AS wanted (client, key, claim_id, fingerprint)
WHERE pg_try_advisory_xact_lock({KEY_LOCK}, hashtext(client || chr(31) || key))
ON CONFLICT (client, key) DO UPDATE
SET claim_id = excluded.claim_id, fingerprint = excluded.fingerprint, created_at = excluded.created_at
WHERE held.created_at < now() - $5::interval
RETURNING claim_id
"""

# $1 client[], $2 key[], $3 retention: what the losers of KEYS ran into.
KEYS_HELD = """
SELECT held.client, held.key, held.claim_id, held.fingerprint
FROM unnest($1::text[], $2::text[]) AS wanted (client, key) JOIN idempotency_key AS held USING (client, key)
WHERE held.created_at >= now() - $3::interval
"""

# $1 claim_number[], $2 client[], $3 claim_id[]
NUMBERS = f"""
INSERT INTO claim_number (claim_number, client, claim_id)
SELECT claim_number, client, claim_id
FROM unnest($1::text[], $2::text[], $3::uuid[]) AS wanted (claim_number, client, claim_id)
WHERE pg_try_advisory_xact_lock({NUMBER_LOCK}, hashtext(client || chr(31) || claim_number))
ON CONFLICT (claim_number, client) DO NOTHING
RETURNING claim_id
"""

# $1 claim_number[], $2 client[]: what the losers of NUMBERS ran into.
NUMBERS_HELD = """
SELECT held.claim_number, held.client, held.claim_id
FROM unnest($1::text[], $2::text[]) AS wanted (claim_number, client)
JOIN claim_number AS held USING (claim_number, client)
"""

# $1 client[], $2 key[] of claims that lost their number: only a stored claim is remembered.
KEYS_GIVEN_BACK = "DELETE FROM idempotency_key WHERE (client, key) IN (SELECT * FROM unnest($1::text[], $2::text[]))"

# $1 retention (interval), $2 how many at a time: for housekeeping
KEYS_EXPIRED = """
DELETE FROM idempotency_key WHERE (client, key) IN (
    SELECT client, key FROM idempotency_key WHERE created_at < now() - $1::interval LIMIT $2
)
"""

ADD_TO_TOTALS = """
    INSERT INTO provider_net_fee AS total (provider_npi, net_fee, line_count)
    SELECT * FROM unnest({npis}, {net_fees}, {line_counts})
    ON CONFLICT (provider_npi) DO UPDATE
    SET net_fee = total.net_fee + excluded.net_fee, line_count = total.line_count + excluded.line_count
"""

# $1 provider_npi[], $2 net_fee[], $3 line_count[]: last, since these rows are shared, and in NPI order.
TOTALS = ADD_TO_TOTALS.format(npis="$1::text[]", net_fees="$2::numeric[]", line_counts="$3::bigint[]")


def _column(number: int, kind: str = "text") -> str:
    """A parameter that is a column of values between SEPARATORs, '' standing for NULL."""
    values = f"string_to_array(${number}, E'\\x1f', '')"
    return values if kind == "text" else f"{values}::{kind}[]"


def _columns(first: int, *kinds: str) -> str:
    return ", ".join(_column(number, kind) for number, kind in enumerate(kinds, first))


# No value holds it (`values.text`).
SEPARATOR = "\x1f"

# All rows of new claims. Columns come as text, since asyncpg takes three times as long to encode arrays of values, half
# a claim's whole writing; and in one statement, since each costs a round trip (bench: 2 lines, 1,000 lines).
# $1 to $8: the claims' id, client, claim_number, net_fee, line_count, warnings, event id, traceparent.
# $9 to $21: the lines' claim_id, line_no, then a column each. $22 to $24: the columns of TOTALS.
# Answers the transaction's id, by which a lost COMMIT is asked about.
STORE = f"""
WITH batch AS (
    SELECT * FROM unnest({_columns(1, "uuid", "text", "text", "numeric", "int", "jsonb", "uuid", "text")})
    AS row (id, client, claim_number, net_fee, line_count, warnings, event_id, traceparent)
), due AS (
    INSERT INTO payment (claim_id, redrive_no, state, lease_no, attempts, next_attempt_at, traceparent)
    SELECT id, 0, 'due', 0, 0, now(), traceparent FROM batch
), accepted AS (
    INSERT INTO claim_event (claim_id, seq, id, type, at, actor, client, amount, line_count, traceparent)
    SELECT id, 1, event_id, 'claim.accepted', now(), client, client, net_fee, line_count, traceparent FROM batch
), stored AS (
    INSERT INTO claim (id, client, claim_number, net_fee, line_count, status, redrive_no, warnings)
    SELECT id, client, claim_number, net_fee, line_count, 'accepted', 0, warnings FROM batch
), lines AS (
    INSERT INTO claim_line (claim_id, line_no, service_dttm, submitted_proc, quadrant, group_id, subscriber_id,
                            provider_npi, provider_fees, allowed_fees, member_co_ins, member_co_pay, net_fee)
    SELECT * FROM unnest({_columns(9, "uuid", "int", "timestamp", *["text"] * 5, *["numeric"] * 5)})
), totals AS ({
    ADD_TO_TOTALS.format(npis=_column(22), net_fees=_column(23, "numeric"), line_counts=_column(24, "bigint"))
})
SELECT pg_current_xact_id()::text
"""

# $1 the lost transaction's id: true while its server process still works on it
STILL_RUNNING = "SELECT pg_xact_status($1::text::xid8) = 'in progress'"

# $1 claim_id[]: which of them were stored; asked of the events, since a claim's own row ends with its reversal
STORED = "SELECT claim_id FROM claim_event WHERE claim_id = ANY($1::uuid[]) AND seq = 1"
