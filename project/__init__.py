"""claim_process: takes in claims, computes their net fees, ranks providers, pays through a saga."""

import os

# OpenTelemetry looks for propagators by this variable when it is first imported, traces or not, and ends the process if
# one is not installed. Ours is always the same (telemetry/otlp.py), whatever a platform sets for all of its services.
os.environ["OTEL_PROPAGATORS"] = "tracecontext"
