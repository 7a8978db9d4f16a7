"""What payments refused: kept whole, looked at, sent again or given up."""
