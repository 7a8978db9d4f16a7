"""claim_process: takes in claims, computes their net fees, ranks providers, pays through a saga."""
