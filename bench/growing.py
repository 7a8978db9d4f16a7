"""Fills a service's tables with claims of four lines, paid and published, on the server itself. Called by `growth`."""

import shutil
from pathlib import Path

from bench.database import pgbench
from bench.stack import FOLDER, Stack
from project.engines.places import DATABASE

LINES_OF_CLAIM = 4
BYTES_OF_LINE = 600  # rows and indexes of all tables; 430 were measured
BYTES_OF_LOG = 4_000_000_000  # twice max_wal_size
AT_ONCE = 1_000_000  # lines a transaction
FIRST_NPI = 1_000_000_000
HOT = Path(__file__).parent / "hot.sql"
HOT_CLIENTS = 8
COMMITS_A_MINUTE = 6_000  # what a busy web process commits

_TABLES = "claim, claim_line, payment, claim_event, provider_net_fee"
# Ids are as old as claims that came 100 a second would be. 7,919 is a prime: lines go round all the NPIs.
_ADD = """
CREATE TEMP TABLE fresh AS
SELECT i, uuidv7(make_interval(secs => (i - {claims}) * 0.01)) AS id FROM generate_series(1, {claims}) AS i;

CREATE TEMP TABLE fresh_line AS
SELECT id, n, i, ({first} + ((i::bigint * {of_claim} + n) * 7919) % {npis})::text AS npi,
       100.00 + (i % 10000) / 100.0 AS fees, 51.25 + (i % 10000) / 100.0 AS net
FROM fresh, generate_series(1, {of_claim}) AS n;

INSERT INTO claim (id, client, net_fee, line_count, status, redrive_no, paid_at)
SELECT id, 'local', sum(net), {of_claim}, 'paid', 0, now() FROM fresh_line GROUP BY id ORDER BY id;

INSERT INTO claim_line (claim_id, line_no, service_dttm, submitted_proc, quadrant, group_id, subscriber_id,
                        provider_npi, provider_fees, allowed_fees, member_co_ins, member_co_pay, net_fee)
SELECT id, n, timestamp '2018-03-28', 'D4346', NULL, 'GRP-1000', (1000000000 + i)::text,
       npi, fees, 65.00, 16.25, 0.00, net
FROM fresh_line ORDER BY id, n;

INSERT INTO payment (claim_id, redrive_no, state, lease_no, attempts, next_attempt_at, payment_id, event_seq)
SELECT id, 0, 'paid', 1, 1, now(), 'p-' || id, 2 FROM fresh ORDER BY id;

INSERT INTO claim_event (claim_id, seq, id, type, at, actor, client, amount, line_count, published_at)
SELECT claim.id, seq, uuidv7(), CASE seq WHEN 1 THEN 'claim.accepted' ELSE 'claim.paid' END, now(), 'local', 'local',
       net_fee, line_count, now()
FROM fresh JOIN claim ON claim.id = fresh.id, generate_series(1, 2) AS seq ORDER BY claim.id, seq;

INSERT INTO provider_net_fee AS total (provider_npi, net_fee, line_count)
SELECT npi, sum(net), count(*) FROM fresh_line GROUP BY npi
ON CONFLICT (provider_npi) DO UPDATE
SET net_fee = total.net_fee + excluded.net_fee, line_count = total.line_count + excluded.line_count;

DROP TABLE fresh, fresh_line;
"""
# Partitions of the totals with as many dead rows as autovacuum looks for, once a minute.
_DUE_FOR_VACUUM = """
SELECT relname FROM pg_stat_user_tables JOIN pg_class USING (relname)
WHERE relname LIKE 'provider_net_fee_p%' AND n_dead_tup > current_setting('autovacuum_vacuum_threshold')::int
      + current_setting('autovacuum_vacuum_scale_factor')::float * reltuples
"""


def add(stack: Stack, lines: int, npis: int, first: int = 0) -> None:
    """So many lines more, spread over `npis` NPIs from the `first` on; then what autovacuum would come to do."""
    while lines > 0:
        now = min(lines, AT_ONCE)
        claims = now // LINES_OF_CLAIM
        stack.execute(_ADD.format(claims=claims, of_claim=LINES_OF_CLAIM, first=FIRST_NPI + first, npis=npis))
        lines -= now
    for table in _TABLES.split(", "):
        stack.execute(f"VACUUM (ANALYZE) {table}")
    stack.execute("CHECKPOINT", "postgres")


def empty(stack: Stack) -> None:
    """Nothing is stored any more."""
    stack.execute(f"TRUNCATE {_TABLES}")


def churn(stack: Stack, minutes: int) -> None:
    """So many minutes of commits that move hot NPIs about in the ranking's index, faster than the clock; between them
    what autovacuum would have done by then. How fast is not measured.
    """
    for _ in range(minutes):
        for row in stack.ask(lambda connection: connection.fetch(_DUE_FOR_VACUUM)):
            stack.execute(f"VACUUM {row[0]}")
        pgbench(stack, DATABASE, HOT, HOT_CLIENTS, f"--transactions={COMMITS_A_MINUTE // HOT_CLIENTS}")


def check_room(lines: int) -> None:
    """Whether the disk has room for that. Raises RuntimeError."""
    free, needed = shutil.disk_usage(FOLDER).free, lines * BYTES_OF_LINE + BYTES_OF_LOG
    if free < needed:
        raise RuntimeError(f"{needed / 1e9:.0f} GB are needed below {FOLDER}, {free / 1e9:.0f} GB are free")
