"""Providers: the running total of each NPI, and the ranking made of the totals."""
