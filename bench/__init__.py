"""Measures that `make bench` takes, each as a ratio of two things done in turn in one run. Needs wrk."""
