"""All SQL of imports, named; that of the claims is in `claims.statements`. Called by `runs` and `storing`."""

from project.claims.statements import ADD_TO_TOTALS

# The first half of the advisory locks' names; any constant that is nobody else's would do.
IMPORT_LOCK = 7_260_418

# $1 digest, $2 client: whether this session now holds the right to import that file; it lasts as long as the session
LOCK = f"SELECT pg_try_advisory_lock({IMPORT_LOCK}, hashtext(encode($1::bytea, 'hex') || $2::text))"

_RUN = """id, digest, client, path, format, size, state, next_row, next_line, position, in_doubt, accepted, refused,
lines, net_fee, refused_path, refused_bytes, started_at, finished_at"""

# $1 client, $2 digest: how often that file was imported already, or begun and given up
ENDED = "SELECT count(*) FROM import_run WHERE client = $1 AND digest = $2 AND state <> 'running'"

# $1 client, $2 digest, $3 path: earlier runs of this file, and an unfinished one of what lay there before; latest first
EARLIER = f"""
SELECT {_RUN} FROM import_run
WHERE client = $1 AND state <> 'given_up' AND (digest = $2 OR (path = $3 AND state = 'running'))
ORDER BY id DESC
"""

# $1 id
RUN = f"SELECT {_RUN} FROM import_run WHERE id = $1"

# $1 id, $2 digest, $3 client, $4 path, $5 format, $6 size, $7 refused_path
BEGIN_RUN = f"""
INSERT INTO import_run (id, digest, client, path, format, size, state, refused_path)
VALUES ($1, $2, $3, $4, $5, $6, 'running', $7)
RETURNING {_RUN}
"""

# $1 id, $2 refused_path
REFUSED_ELSEWHERE = f"UPDATE import_run SET refused_path = $2 WHERE id = $1 RETURNING {_RUN}"

# $1 id[]
GIVE_UP = (
    "UPDATE import_run SET state = 'given_up', finished_at = now() WHERE id = ANY($1::uuid[]) AND state = 'running'"
)

# $1 id, $2 position before, $3 position, $4 next_row, $5 next_line, $6 in_doubt, $7 accepted, $8 refused, $9 lines,
# $10 net_fee, $11 refused_bytes. No row: the run is not where this process believes it to be.
ADVANCE = """
UPDATE import_run
SET position = $3, next_row = $4, next_line = $5, in_doubt = $6, accepted = accepted + $7, refused = refused + $8,
    lines = lines + $9, net_fee = net_fee + $10, refused_bytes = $11, updated_at = now()
WHERE id = $1 AND position = $2 AND state = 'running'
RETURNING id
"""

# $1 provider_npi, $2 net_fee, $3 line_count, each a column as text, in NPI order: asyncpg would take longer to encode
# arrays than Postgres takes to add them up, and Postgres would wait for it.
TOTALS = ADD_TO_TOTALS.format(
    npis="string_to_array($1, ',')",
    net_fees="string_to_array($2, ',')::numeric[]",
    line_counts="string_to_array($3, ',')::bigint[]",
)

# $1 id, $2 position
FINISH = """
UPDATE import_run SET state = 'finished', finished_at = now(), updated_at = now()
WHERE id = $1 AND position = $2 AND state = 'running'
RETURNING id
"""
