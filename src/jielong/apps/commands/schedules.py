"""The schedule of a run at its budget, as a table."""

from __future__ import annotations

import math

from jielong.apps.commands.screen import results, table
from jielong.config.schedule import scheduled
from jielong.config.schema import Recipe
from jielong.core.progress import clock


def print_schedule(recipe: Recipe, seconds: float | None) -> None:
    """Print the budget in steps, and when everything that is counted in samples happens.

    Args:
        recipe: The recipe.
        seconds: Budget of wall time, if there is one.
    """
    settings = recipe.train.resolved()
    total, batch = settings.samples, settings.batch
    limit = "" if seconds is None else f", or {clock(seconds)}, whichever is shorter"
    rows = [("train.samples", f"{total:,}", f"{math.ceil(total / batch):,} steps of {batch:,} samples{limit}")]
    words = {"start": "from", "end": "until", "interval": "every"}
    for each in scheduled(recipe.model_copy(update={"train": settings})):
        parts = [f"{each.samples / total:.1%} of the budget"]
        if each.what != "interval":
            parts.append("never reached" if each.samples > total else f"step {math.ceil(each.samples / batch) + 1:,}")
        if seconds is not None and each.samples <= total:
            parts.append(f"{clock(seconds * each.samples / total)} at most")
        rows.append((each.name, f"{words[each.what]} {each.samples:,}", ", ".join(parts)))
    results.print(table("Schedule", ("setting", "samples", "when"), rows))
