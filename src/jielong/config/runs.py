"""How a training run is named and how long it may take. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from jielong.config.registry import RecipeError
from jielong.config.schema import Recipe

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """A span of time such as ``90s``, ``10m``, ``1.5h`` or ``1h30m`` in seconds.

    Raises:
        ValueError: if it is written in another way.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise ValueError(f"a time is written 90s, 10m, 1h or 1h30m, not {text!r}")
    return seconds


def with_samples(overrides: Sequence[str], samples: int | None) -> list[str]:
    """Overrides with a budget of samples among them.

    Raises:
        RecipeError: if an override sets it too.
    """
    if samples is not None and any(each.partition("=")[0].strip() == "train.samples" for each in overrides):
        raise RecipeError("the option for samples and the setting train.samples both give the budget: leave out one")
    return [*overrides, *([f"train.samples={samples}"] if samples is not None else [])]


def default_out(name: str, recipe: Recipe, data: str | None, overrides: Sequence[str]) -> Path:
    """The folder of a run: ``runs/RECIPE``, with a hash of changed settings and data, so that the same call resumes the same run."""
    path = Path(name)
    stem = path.stem if path.suffix in (".yaml", ".yml") else path.resolve().name if path.is_dir() else name
    if not overrides and data is None:
        return Path("runs") / stem
    changes = hashlib.sha256(f"{data}\n{recipe.to_yaml()}".encode()).hexdigest()[:8]
    return Path("runs") / f"{stem}-{changes}"
