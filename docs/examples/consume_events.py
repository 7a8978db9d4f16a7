"""Reads claim_process' events from its Redis stream, in a group of its own, and prints each once.

    python docs/examples/consume_events.py redis://127.0.0.1:6379 my-group
    python docs/examples/consume_events.py "unix://$PWD/var/run/redis.sock" my-group     # beside `make run`

An entry is acknowledged after it was handled; what a killed consumer had in hand is handed out again to the next one.
So an event may come twice: `seen` drops what was handled before (keep it where your work is kept, in one transaction).
"""

import json
import sys

import redis

STREAM = "claim-events"
CONSUMER = "consumer-1"
IDLE_MS = 30_000  # what another consumer has had in hand for longer is taken over
BLOCK_MS = 2_000  # less than the client's socket timeout


def handle(event: dict, seen: dict[str, int]) -> None:
    """One event. Within a claim the first delivery of each is in order."""
    claim, seq = event["subject"], int(event["sequence"])
    if seq <= seen.get(claim, 0):
        return
    seen[claim] = seq
    print(event["time"], event["type"], claim, event["data"]["net_fee"], flush=True)


def consume(url: str, group: str) -> None:
    """Forever, oldest first."""
    client = redis.Redis.from_url(url, decode_responses=True)
    try:
        client.xgroup_create(STREAM, group, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
    seen: dict[str, int] = {}
    while True:
        _, left_behind, _ = client.xautoclaim(STREAM, group, CONSUMER, IDLE_MS)
        fresh = client.xreadgroup(group, CONSUMER, {STREAM: ">"}, count=100, block=BLOCK_MS)
        entries = left_behind + [entry for _, entries in fresh or [] for entry in entries]
        for entry_id, fields in entries:
            if fields:  # None: trimmed from the stream meanwhile
                handle(json.loads(fields["event"]), seen)
            client.xack(STREAM, group, entry_id)


if __name__ == "__main__":
    consume(sys.argv[1], sys.argv[2])
