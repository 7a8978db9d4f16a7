"""What the Grafana dashboard shows. Drawn by `dashboard`.

Every panel says what it shows, in which unit, and what is well. Rates are taken before sums, since each process begins
anew at 0; gauges of the database come from the leading worker alone.
"""

from dataclasses import dataclass

RUNBOOK = "docs/operations.md"
CLAIMS = '{method="POST", route="/claims"}'


@dataclass(frozen=True)
class Panel:
    """One panel. `targets` are pairs of an expression and the legend of its series."""

    title: str
    description: str
    unit: str
    targets: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    limits: tuple[float, ...] = ()
    least: float | None = 0


def rate(counter: str, by: str = "", matching: str = "") -> str:
    """How often a second a counter rises, added up over all processes."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({counter}{matching}[$__rate_interval]))"


def quantiles(histogram: str, matching: str = "", by: str = "") -> tuple[tuple[str, str], ...]:
    """The median and the 99th percentile of a histogram, over all processes."""
    legend = f" {{{{{by}}}}}" if by else ""
    buckets = rate(f"{histogram}_bucket", f"le, {by}" if by else "le", matching)
    return tuple((f"histogram_quantile({q}, {buckets})", f"p{q * 100:.0f}{legend}") for q in (0.5, 0.99))


def mean(histogram: str) -> tuple[str, str]:
    """The mean of a histogram, over all processes."""
    return f"{rate(f'{histogram}_sum')} / {rate(f'{histogram}_count')}", "mean"


OBJECTIVES = (
    Panel(
        "Budget left",
        "What is left of each objective's error budget of the last 30 days (docs/slo.md). Below 0 it is used up: "
        "changes that do not make the service more reliable wait.",
        "percentunit",
        (
            (
                "1 - (sum_over_time(slo:bad:rate1m[30d]) / sum_over_time(slo:total:rate1m[30d]))"
                " / on (slo) slo:budget:ratio",
                "{{slo}}",
            ),
        ),
        kind="stat",
        limits=(0, 0.25),
        least=None,
    ),
    Panel(
        "Burn rate, one hour",
        "How many times faster than allowed the budget is used up. Over 14.4 for an hour, or over 6 for six hours, "
        "wakes somebody.",
        "none",
        (("slo:bad_share:over1h / on (slo) slo:budget:ratio", "{{slo}}"),),
        limits=(6, 14.4),
    ),
    Panel(
        "Gone wrong, five minutes",
        "The share of requests answered 5xx or shed, of claims answered after 0.5 s, and of claims paid after 60 s or "
        "given up.",
        "percentunit",
        (("slo:bad_share:over5m", "{{slo}}"),),
    ),
    Panel(
        "Firing alerts",
        f"Alerts that fire now. Each names its section of {RUNBOOK}.",
        "none",
        (("sum by (alertname, severity) (ALERTS{alertstate='firing'})", "{{alertname}}"),),
        kind="table",
        width=24,
    ),
)

INTAKE = (
    Panel(
        "Answers by status",
        "What all routes answer. 5xx are our failures; 429 and 4xx are not.",
        "reqps",
        ((rate("http_requests_total", "status"), "{{status}}"),),
        stacked=True,
    ),
    Panel(
        "Requests by route",
        "What is asked for. `unmatched` is whatever is not served.",
        "reqps",
        ((rate("http_requests_total", "method, route"), "{{method}} {{route}}"),),
        stacked=True,
    ),
    Panel(
        "Time of POST /claims",
        "From the request's headers to the last byte of the answer. The objective is 0.5 s for 99 %.",
        "s",
        quantiles("http_request_duration_seconds", CLAIMS),
        limits=(0.5,),
    ),
    Panel(
        "Claims accepted",
        "Claims and lines durably stored, and repeats answered from their Idempotency-Key.",
        "ops",
        (
            (rate("claims_accepted_total"), "claims"),
            (rate("claim_lines_accepted_total"), "lines"),
            (rate("claims_replayed_total"), "repeats"),
        ),
    ),
    Panel(
        "Claims in a commit",
        "How many claims share a commit. More of them under load is how it keeps its pace.",
        "none",
        (mean("ledger_batch_claims"), quantiles("ledger_batch_claims")[1]),
    ),
    Panel(
        "Time of a commit",
        "From BEGIN to the answer of COMMIT. Over 0.1 s the database is slow: disk, or locks.",
        "s",
        quantiles("ledger_commit_seconds"),
        limits=(0.1,),
    ),
    Panel(
        "Claims that wait for their commit",
        "About a commit's worth under load; more and more of them mean a database that is slow or away.",
        "none",
        (("sum(ledger_queue_claims)", "claims"),),
    ),
    Panel(
        "Claims refused, by rule",
        "Faults of senders: a claim counts once for each rule that it broke.",
        "ops",
        ((rate("claims_refused_total", "rule"), "{{rule}}"),),
        stacked=True,
    ),
    Panel(
        "Not let in, and shed",
        "Requests without a key that lets them in, by reason, and those refused unseen as too many.",
        "reqps",
        ((rate("access_refused_total", "reason"), "{{reason}}"), (rate("requests_shed_total"), "shed")),
    ),
    Panel(
        "Time of reads, 99th percentile",
        "GET by route; large claims take longer.",
        "s",
        (
            quantiles(
                "http_request_duration_seconds", '{method="GET", route!~"/livez|/readyz|/metrics|/hello"}', "route"
            )[1],
        ),
        width=24,
    ),
)

SAGA = (
    Panel(
        "Oldest unpaid claim",
        "The age of the oldest claim that is neither paid nor given up. Over 300 s wakes somebody. "
        "No line: no worker leads.",
        "s",
        (("max(oldest_unpaid_claim_seconds)", "age"),),
        limits=(300,),
    ),
    Panel(
        "Queues",
        "Claims that are due, and those whose reversal waits for payments to confirm it.",
        "none",
        (('sum by (state) (payments{state=~"due|reversing"})', "{{state}}"),),
    ),
    Panel(
        "Accepted to paid",
        "From a claim's acceptance to its payment, redrives left out. The objective is 60 s for 99 %.",
        "s",
        quantiles("claim_accepted_to_paid_seconds"),
        limits=(60,),
    ),
    Panel(
        "Paid, given up, reversed",
        "What becomes of claims. Given up: refused by payments, or no decision after all attempts.",
        "ops",
        (
            (rate("claims_paid_total"), "paid"),
            (rate("claims_given_up_total", "reason"), "{{reason}}"),
            (rate("claims_reversed_total"), "reversed"),
        ),
    ),
    Panel(
        "Calls for a payment, by result",
        "unavailable: not reached, 429 or 503. unknown: other 5xx, time-outs, answers that make no sense.",
        "ops",
        ((rate("payment_attempts_total", "result"), "{{result}}"),),
        stacked=True,
    ),
    Panel(
        "Time of calls to payments",
        "Payments and cancellations. A call ends after 5 s in any case.",
        "s",
        quantiles("payment_call_seconds", by="call"),
    ),
    Panel(
        "Breaker",
        "Of each worker: 0 closed, 1 half-open, 2 open. Open means that payments does not answer; claims wait.",
        "none",
        (("max by (instance) (payments_breaker_state)", "{{instance}}"),),
        limits=(1,),
    ),
    Panel(
        "In the workers' hands",
        "Leased payments by lane. A lane `pay` at PAYMENTS_CONCURRENCY for each worker is as fast as "
        "payments lets it be.",
        "none",
        (("sum by (lane) (saga_in_flight)", "{{lane}}"),),
    ),
    Panel(
        "Dead letters",
        "waiting: not reversed yet. reversed: can be sent again. What is redriven or discarded is done with.",
        "none",
        (('sum by (reason, state) (dead_letters{state=~"waiting|reversed"})', "{{reason}} {{state}}"),),
    ),
    Panel(
        "What did not work",
        "Cancellations that payments did not confirm, settlements that did not commit, leases that were "
        "lost. 0 is well.",
        "ops",
        (
            (rate("payment_cancel_failures_total"), "cancel"),
            (rate("saga_settle_failures_total", "reason"), "settle: {{reason}}"),
            (rate("saga_fenced_total"), "lease lost"),
        ),
        width=12,
    ),
    Panel(
        "Outcomes in a commit",
        "How many settlements share a commit.",
        "none",
        (mean("saga_settle_batch"), quantiles("saga_settle_batch")[1]),
        width=12,
    ),
)

LEDGER = (
    Panel(
        "Difference of the books",
        "How far the sums of lines, claims, provider totals and events are apart, looked at every "
        "five minutes. Always 0.",
        "currencyUSD",
        (("max(ledger_difference_usd)", "difference"),),
        kind="stat",
        width=6,
        limits=(0.01,),
    ),
    Panel(
        "Torn claims",
        "Claims that contradict their payment, looked at every five minutes. Always 0.",
        "none",
        (("max(claims_torn)", "torn"),),
        kind="stat",
        width=6,
        limits=(1,),
    ),
    Panel(
        "Paid claims",
        "All of them, counted every five minutes.",
        "none",
        (('sum(payments{state="paid"})', "paid"),),
        kind="stat",
        width=6,
    ),
    Panel(
        "House kept",
        "How long ago what has expired was deleted last. Once a minute is well.",
        "s",
        (("time() - max(housekeeping_done_timestamp_seconds)", "ago"),),
        kind="stat",
        width=6,
        limits=(3600,),
    ),
    Panel(
        "Batches that did not commit",
        "database_away: tried again or answered 503. statement: a defect. lost_commit: the connection died in COMMIT.",
        "ops",
        ((rate("ledger_failures_total", "reason"), "{{reason}}"),),
    ),
    Panel(
        "Events",
        "Events that the hub took, and rounds that it did not take.",
        "ops",
        ((rate("events_published_total"), "published"), (rate("event_hub_failures_total"), "rounds failed")),
    ),
    Panel(
        "Events that wait",
        "Not published yet. Near 0 is well; they wait in the database, in order.",
        "none",
        (("sum(events_unpublished)", "events"),),
        limits=(10000,),
    ),
    Panel(
        "Rows deleted after their retention",
        "Idempotency-Keys and closed dead letters.",
        "ops",
        ((rate("housekeeping_deleted_total", "table"), "{{table}}"),),
        width=24,
    ),
)

RANKING = (
    Panel(
        "Reads of the cached ranking",
        "error: Redis is away, and the answer comes from Postgres.",
        "ops",
        ((rate("ranking_cache_total", "result"), "{{result}}"),),
        stacked=True,
    ),
    Panel(
        "Making the ranking",
        "Reading the best providers from the totals, once a second at most while anybody asks.",
        "s",
        quantiles("ranking_recompute_seconds"),
    ),
    Panel(
        "Limiter",
        "Requests answered 429, and requests let through uncounted because Redis was away.",
        "reqps",
        ((rate("limiter_refused_total"), "refused"), (rate("limiter_degraded_total"), "uncounted")),
    ),
)

PROCESSES = (
    Panel(
        "Containers that answer",
        "Web containers and workers that Prometheus can scrape.",
        "none",
        (('sum by (job) (up{job=~"web|worker"})', "{{job}}"),),
    ),
    Panel(
        "Connections for reads",
        "Connections of web processes to Postgres that are lent out, and how many may be.",
        "none",
        (("sum(database_pool_in_use)", "in use"), ("sum(database_pool_size)", "at most")),
    ),
    Panel(
        "Processor time of workers",
        "Seconds of processor a second, by worker. Near 1 a worker is as fast as it can be: start another.",
        "none",
        (('rate(process_cpu_seconds_total{job="worker"}[$__rate_interval])', "{{instance}}"),),
    ),
    Panel(
        "Memory of workers",
        "Resident memory, by worker. Flat is well.",
        "bytes",
        (('process_resident_memory_bytes{job="worker"}', "{{instance}}"),),
    ),
    Panel(
        "Time of a scrape",
        "Under 50 ms is well.",
        "s",
        (('scrape_duration_seconds{job=~"web|worker"}', "{{job}} {{instance}}"),),
        limits=(0.05,),
    ),
    Panel(
        "Series in a scrape",
        "Prometheus takes 1,500 at most.",
        "none",
        (('scrape_samples_post_metric_relabeling{job=~"web|worker"}', "{{job}} {{instance}}"),),
        limits=(1500,),
    ),
)

ROWS = (
    ("Objectives", OBJECTIVES),
    ("Intake", INTAKE),
    ("Payments saga", SAGA),
    ("Ledger and events", LEDGER),
    ("Ranking and limiter", RANKING),
    ("Processes and pools", PROCESSES),
)
