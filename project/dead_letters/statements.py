"""All SQL that changes dead letters after the saga has written them, named. Called by `queue` and by housekeeping."""

from project.claims.statements import NUMBER_LOCK

# $1 id: takes the claim out of a letter that may be sent again; nothing if it may not, also for the second of two.
TAKE_OUT = """
UPDATE dead_letter SET state = 'redriven', claim = NULL, closed_at = now()
FROM (SELECT claim_id, redrive_no, claim FROM dead_letter WHERE id = $1 AND state = 'reversed' FOR UPDATE) AS kept
WHERE dead_letter.claim_id = kept.claim_id AND dead_letter.redrive_no = kept.redrive_no
RETURNING kept.claim_id, kept.redrive_no, kept.claim::text, client, amount, line_count,
          kept.claim ->> 'claim_number' AS claim_number
"""

# $1 client, $2 claim_number: the lock that intake tries for the number
LOCK_NUMBER = f"SELECT pg_advisory_xact_lock({NUMBER_LOCK}, hashtext($1::text || chr(31) || $2::text))"

# $1 client, $2 claim_number, $3 claim_id: answers who holds the number now
TAKE_NUMBER = """
WITH taken AS (
    INSERT INTO claim_number (claim_number, client, claim_id) VALUES ($2, $1, $3)
    ON CONFLICT (claim_number, client) DO NOTHING RETURNING claim_id
)
SELECT claim_id FROM taken UNION ALL SELECT claim_id FROM claim_number WHERE claim_number = $2 AND client = $1
"""

# $1 claim_id, $2 redrive_no, $3 client, $4 the letter's claim, $5 net_fee, $6 line_count, $7 event id, $8 actor,
# $9 traceparent.
# The claim as it was, due again; answers what it adds to the totals, NPI by NPI.
RESTORE = """
WITH kept AS (
    SELECT $4::text::jsonb AS claim
), restored AS (
    INSERT INTO claim (id, client, claim_number, net_fee, line_count, status, redrive_no, warnings)
    SELECT $1, $3, claim ->> 'claim_number', $5, $6, 'accepted', $2, NULLIF(claim -> 'warnings', 'null') FROM kept
), lines AS (
    INSERT INTO claim_line (claim_id, line_no, service_dttm, submitted_proc, quadrant, group_id, subscriber_id,
                            provider_npi, provider_fees, allowed_fees, member_co_ins, member_co_pay, net_fee)
    SELECT $1, line_no, service_dttm, submitted_proc, quadrant, group_id, subscriber_id,
           provider_npi, provider_fees, allowed_fees, member_co_ins, member_co_pay, line.net_fee
    FROM kept, jsonb_populate_recordset(NULL::claim_line, claim -> 'lines') AS line
    RETURNING provider_npi, net_fee
), redriven AS (
    INSERT INTO claim_event (claim_id, seq, id, type, at, actor, client, amount, line_count, traceparent)
    SELECT $1, max(seq) + 1, $7, 'claim.redriven', now(), $8, $3, $5, $6, $9 FROM claim_event WHERE claim_id = $1
    RETURNING seq
), due AS (
    INSERT INTO payment (claim_id, redrive_no, state, next_attempt_at, event_seq, traceparent)
    SELECT $1, $2, 'due', now(), seq, $9 FROM redriven
)
SELECT provider_npi, sum(net_fee), count(*) FROM lines GROUP BY provider_npi ORDER BY provider_npi
"""

# $1 id, $2 event id, $3 actor: the letter stays as a record, the claim in it is erased
DISCARD = """
WITH discarded AS (
    UPDATE dead_letter SET state = 'discarded', claim = NULL, closed_at = now() WHERE id = $1 AND state = 'reversed'
    RETURNING claim_id, client, amount, line_count
)
INSERT INTO claim_event (claim_id, seq, id, type, at, actor, client, amount, line_count)
SELECT claim_id, (SELECT max(seq) + 1 FROM claim_event WHERE claim_event.claim_id = discarded.claim_id),
       $2, 'claim.discarded', now(), $3, client, amount, line_count
FROM discarded
RETURNING claim_id
"""

EXISTS = "SELECT EXISTS (SELECT 1 FROM dead_letter WHERE id = $1)"

# $1 retention (interval), $2 how many at a time: closed letters that nobody needs any more
EXPIRED = """
DELETE FROM dead_letter WHERE (claim_id, redrive_no) IN (
    SELECT claim_id, redrive_no FROM dead_letter
    WHERE state <> 'waiting' AND closed_at < now() - $1::interval LIMIT $2
)
"""
