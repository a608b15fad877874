"""``python -m jielong``: the command line."""

from jielong.apps.cli import app

app(prog_name="jielong")
