"""The saga: every accepted claim is paid, or reversed with nothing paid."""
