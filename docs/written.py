"""The command line of the scripts beside this one, each of which writes a page: write it, or check that it is up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(path: Path, page: Callable[[], str], about: str) -> None:
    """Write a page, or with ``--check`` exit with 1 if it is out of date.

    Args:
        path: The page.
        page: Its text.
        about: Of the script, for ``--help``.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    if not parser.parse_args().check:
        path.write_text(page(), encoding="utf-8")
    elif path.read_text("utf-8") != page():
        sys.exit(f"{path} is out of date: run python {sys.argv[0]}")
