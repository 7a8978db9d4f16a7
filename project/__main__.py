"""`python -m project`: see `cli`."""

from project.cli import app

app()
