"""Random violence against the whole service, and the reckoning after it: `make chaos`."""
