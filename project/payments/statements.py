"""All SQL of the saga, named: LEASE takes payments off the queue, each of the others settles leases of one outcome.

Called by `lane` (LEASE) and `settling` (the rest). Every settling statement takes arrays, one element a lease, and is
guarded by claim, redrive number, lease number, state, and that the lease was not ended yet: who lost the lease changes
nothing, nor does who settles twice, and its claim is not among the claims that the statement answers. The payment row
is locked first, so its `event_seq` may number the event.
"""

from project.claims.statements import NUMBER_LOCK

# $1 how many, $2 for how long (interval), $3 since when they are due (NULL: ever): a lease that begins at the index's
# beginning steps over all that was paid since the last vacuum. An expired lease is due like any other row. The state
# stands in the text, since a parameter would keep the planner from the partial index.
_LEASE = """
WITH picked AS (
    SELECT claim_id FROM payment
    WHERE state = '{state}' AND next_attempt_at BETWEEN coalesce($3, timestamptz '-infinity') AND now()
      AND (leased_until IS NULL OR leased_until <= now())
    ORDER BY next_attempt_at, claim_id
    LIMIT $1
    FOR UPDATE SKIP LOCKED
), leased AS (
    UPDATE payment SET lease_no = lease_no + 1, attempts = attempts + 1, leased_until = now() + $2::interval
    FROM picked WHERE payment.claim_id = picked.claim_id
    RETURNING payment.claim_id, payment.redrive_no, payment.lease_no, payment.attempts, payment.traceparent,
              payment.next_attempt_at
)
SELECT leased.claim_id, leased.redrive_no, leased.lease_no, leased.attempts, claim.net_fee::text AS net_fee,
       {providers} AS providers, claim.line_count, leased.traceparent, leased.next_attempt_at
FROM leased JOIN claim ON claim.id = leased.claim_id
"""

# The claim's net fees by NPI, as the JSON text that payments is sent.
_PROVIDERS = """(
    SELECT json_agg(json_build_object('provider_npi', npi, 'net_fee', net_fee::text))::text FROM (
        SELECT provider_npi AS npi, sum(net_fee) AS net_fee FROM claim_line
        WHERE claim_line.claim_id = leased.claim_id GROUP BY provider_npi ORDER BY provider_npi
    ) AS by_provider
)"""

LEASE_DUE = _LEASE.format(state="due", providers=_PROVIDERS)
LEASE_REVERSING = _LEASE.format(state="reversing", providers="'[]'")

# What every settling statement begins with. $1 claim_id[], $2 redrive_no[], $3 lease_no[], $4 event id[], then the
# columns of its own; {state} must be the payment's state and {changes} are made to it.
_SETTLE = """
WITH outcome AS (
    SELECT * FROM unnest($1::uuid[], $2::int[], $3::int[], $4::uuid[]{types})
    AS row (claim_id, redrive_no, lease_no, event_id{columns})
), settled AS (
    UPDATE payment SET {changes}
    FROM outcome
    WHERE payment.claim_id = outcome.claim_id AND payment.redrive_no = outcome.redrive_no
      AND payment.lease_no = outcome.lease_no AND payment.leased_until IS NOT NULL AND payment.state = '{state}'
    RETURNING payment.claim_id, payment.redrive_no, payment.event_seq, payment.attempts, payment.traceparent,
              outcome.event_id{own}
)"""

# $5 payment_id[]
PAID = (
    _SETTLE.format(
        state="due",
        types=", $5::text[]",
        columns=", payment_id",
        changes="state = 'paid', leased_until = NULL, last_error = NULL, payment_id = outcome.payment_id, "
        "event_seq = event_seq + 1",
        own="",
    )
    + """, paid AS (
    UPDATE claim SET status = 'paid', paid_at = now() FROM settled WHERE claim.id = settled.claim_id
    RETURNING claim.id, claim.client, claim.net_fee, claim.line_count, settled.event_id, settled.event_seq,
              settled.traceparent
)
INSERT INTO claim_event (claim_id, seq, id, type, at, actor, client, amount, line_count, traceparent)
SELECT id, event_seq, event_id, 'claim.paid', now(), 'worker', client, net_fee, line_count, traceparent FROM paid
RETURNING claim_id
"""
)

# $5 detail[], $6 delay[] (intervals): a call that decided nothing.
FAILED = (
    _SETTLE.format(
        state="due",
        types=", $5::text[], $6::interval[]",
        columns=", detail, delay",
        changes="leased_until = NULL, last_error = outcome.detail, next_attempt_at = now() + outcome.delay, "
        "event_seq = event_seq + 1",
        own=", outcome.detail",
    )
    + """
INSERT INTO claim_event (claim_id, seq, id, type, at, actor, client, amount, line_count, detail, traceparent)
SELECT id, event_seq, event_id, 'claim.attempt_failed', now(), 'worker', client, net_fee, line_count, detail,
       traceparent
FROM settled JOIN claim ON claim.id = settled.claim_id
RETURNING claim_id
"""
)

# A lease that is given back because its call was never made: the attempt does not count, nothing has happened.
GIVEN_BACK = (
    _SETTLE.format(
        state="due",
        types="",
        columns="",
        changes="leased_until = NULL, attempts = attempts - 1",
        own="",
    )
    + "\nSELECT claim_id FROM settled"
)

# $5 reason[], $6 detail[]: refused or exhausted. The dead letter takes the whole claim, lines in order, amounts exact;
# its id is its event's. The payment row becomes the reversal's entry in the queue, due at once.
GIVEN_UP = (
    _SETTLE.format(
        state="due",
        types=", $5::text[], $6::text[]",
        columns=", reason, detail",
        changes="state = 'reversing', leased_until = NULL, last_error = outcome.detail, next_attempt_at = now(), "
        "attempts = 0, event_seq = event_seq + 1",
        own=", outcome.reason, outcome.detail",
    )
    + """, used AS (
    SELECT settled.*, payment.attempts AS used_attempts FROM settled JOIN payment USING (claim_id)
), reversing AS (
    UPDATE claim SET status = 'reversing' FROM used WHERE claim.id = used.claim_id
    RETURNING claim.*, used.event_id, used.event_seq, used.reason, used.detail, used.used_attempts,
              used.traceparent
), letter AS (
    INSERT INTO dead_letter (claim_id, redrive_no, id, client, reason, detail, attempts, amount, line_count, claim,
                             state, created_at)
    SELECT id, redrive_no, event_id, client, reason, detail, used_attempts, net_fee, line_count,
           jsonb_build_object('claim_number', claim_number, 'warnings', warnings, 'lines', (
               SELECT jsonb_agg(to_jsonb(claim_line) - 'claim_id' ORDER BY line_no)
               FROM claim_line WHERE claim_line.claim_id = reversing.id)),
           'waiting', now()
    FROM reversing
)
INSERT INTO claim_event (claim_id, seq, id, type, at, actor, client, amount, line_count, detail, traceparent)
SELECT id, event_seq, event_id, 'claim.reversing', now(), 'worker', client, net_fee, line_count,
       reason || ': ' || detail, traceparent
FROM reversing
RETURNING claim_id
"""
)

# $5 detail[], $6 delay[] (intervals): a cancellation that was not confirmed.
NOT_CANCELLED = (
    _SETTLE.format(
        state="reversing",
        types=", $5::text[], $6::interval[]",
        columns=", detail, delay",
        changes="leased_until = NULL, last_error = outcome.detail, next_attempt_at = now() + outcome.delay",
        own="",
    )
    + "\nSELECT claim_id FROM settled"
)

# $1 claim_id[]: the same locks that intake tries for these claims' numbers, in one order, before they are released.
LOCK_NUMBERS = f"""
SELECT pg_advisory_xact_lock({NUMBER_LOCK}, number) FROM (
    SELECT DISTINCT hashtext(client || chr(31) || claim_number) AS number
    FROM claim WHERE id = ANY($1::uuid[]) AND claim_number IS NOT NULL ORDER BY 1
) AS numbers
"""

# Payments has confirmed the cancellation: the claim goes, and what each claim added to the totals is answered, NPI by
# NPI. The caller takes that back in the same transaction. The event's id is not the letter's, which is older.
REVERSED = """
WITH outcome AS (
    SELECT * FROM unnest($1::uuid[], $2::int[], $3::int[], $4::uuid[])
    AS row (claim_id, redrive_no, lease_no, event_id)
), settled AS (
    DELETE FROM payment USING outcome
    WHERE payment.claim_id = outcome.claim_id AND payment.redrive_no = outcome.redrive_no
      AND payment.lease_no = outcome.lease_no AND payment.state = 'reversing'
    RETURNING payment.claim_id, payment.redrive_no, payment.event_seq + 1 AS event_seq, payment.traceparent,
              outcome.event_id
), gone AS (
    DELETE FROM claim USING settled WHERE claim.id = settled.claim_id
    RETURNING claim.id, claim.client, claim.claim_number, claim.net_fee, claim.line_count,
              settled.event_id, settled.event_seq, settled.traceparent
), released AS (
    DELETE FROM claim_number USING gone
    WHERE claim_number.claim_number = gone.claim_number AND claim_number.client = gone.client
      AND claim_number.claim_id = gone.id
), closed AS (
    UPDATE dead_letter SET state = 'reversed', closed_at = now() FROM settled
    WHERE dead_letter.claim_id = settled.claim_id AND dead_letter.redrive_no = settled.redrive_no
    RETURNING dead_letter.claim_id, dead_letter.reason
), told AS (
    INSERT INTO claim_event (claim_id, seq, id, type, at, actor, client, amount, line_count, detail, traceparent)
    SELECT id, event_seq, event_id, 'claim.reversed', now(), 'worker', client, net_fee, line_count, reason,
           traceparent
    FROM gone LEFT JOIN closed ON closed.claim_id = gone.id
), lines AS (
    DELETE FROM claim_line USING settled WHERE claim_line.claim_id = settled.claim_id
    RETURNING claim_line.claim_id, claim_line.provider_npi, claim_line.net_fee
)
SELECT claim_id, provider_npi, sum(net_fee), count(*) FROM lines GROUP BY claim_id, provider_npi
"""

# No delay and no lease is ever as long as this: such a row dates from before the database's clock was set back.
CLOCK_SET_BACK = """
UPDATE payment SET next_attempt_at = now(), leased_until = NULL
WHERE state <> 'paid'
  AND (next_attempt_at > now() + interval '2 minutes' OR leased_until > now() + interval '2 minutes')
"""
