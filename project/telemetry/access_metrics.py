"""What the door counts, in web processes and workers alike. Called by `security.door`."""

from prometheus_client import Counter

REFUSED = Counter("access_refused_total", "Requests that were not let in, by reason.", ["reason"])

for _reason in ("no_key", "two_keys", "bad_key", "scope", "keyless", "keys_unknown"):
    REFUSED.labels(_reason)
