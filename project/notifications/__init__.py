"""Events for other systems: the claim's history, published in order."""
