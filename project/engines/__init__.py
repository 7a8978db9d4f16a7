"""The embedded default: a private Postgres and Valkey from wheels, and the supervisor of all processes."""
