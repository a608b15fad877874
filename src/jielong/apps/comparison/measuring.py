"""Metrics and cost of one system."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.evaluation.context import DrawSettings
from jielong.evaluation.evaluate import Evaluation, evaluate, heldout_items
from jielong.evaluation.provenance import machine
from jielong.system import System

SHOWN = 8
"""Items of a sample grid."""
TIMED, ROUNDS = 16, 5
"""Batch size and number of timing rounds."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Measured:
    """Figures of a system.

    Attributes:
        figures: Values by name.
        omitted: Reasons of omitted figures.
        provenance: Provenance of the figures.
        strip: Samples or reconstructions of a few held-out items, ``(SHOWN, C, H, W)``.
    """

    figures: dict[str, float]
    omitted: dict[str, str]
    provenance: dict[str, Any]
    strip: Tensor


CEILINGS = frozenset({"retrieval_at_1_real", "attribute_accuracy_real"})
"""Figures of the real pictures, the same for every system."""


def measure(system: System, data: str | None, count: int | None, seed: int, progress: Progress | None = None) -> Measured:
    """Measure one system.

    Args:
        system: A tokenizer or a generator.
        data: Name or path of a data set; the recipe's by default.
        count: Held-out items; all by default.
        seed: Sampling seed.
        progress: Called with the stage, items done and their total.
    """
    images = heldout_items(system.recipe, data or system.recipe.data.set, system.tokenizer.media, count)
    evaluation = evaluate(system, data, count, DrawSettings(seed=seed), progress=progress, perception=True)
    figures = {name: figure.value for name, figure in evaluation.figures.items() if name not in CEILINGS}
    provenance = evaluation.to_json()["provenance"]
    shown = images.media(spread(len(images), SHOWN))
    layout = system.tokenizer.layout
    figures |= {"parameters": provenance["parameters"], "positions": layout.positions}
    if layout.bits is not None:
        figures["bits"] = layout.bits
    else:
        figures["numbers"] = layout.positions * layout.channels
    if system.generator is None:
        costs, how = coding_time(system, shown)
        figures |= costs
        provenance["coding_time"] = how
        strip = system.decode(system.encode(shown))
    else:
        figures["seconds_per_picture"] = provenance["draws"]["seconds_per_picture"]
        strip = _drawn(system, images, seed)
    return Measured(figures, evaluation.omitted | _without_frechet(evaluation), provenance, strip)


def _without_frechet(evaluation: Evaluation) -> dict[str, str]:
    figure = evaluation.figures.get("frechet")
    return {} if figure is None or "warning" not in figure.details else {"more about frechet": str(figure.details["warning"])}


def _drawn(system: System, images: MediaSet, seed: int) -> Tensor:
    """Samples of the same items' conditions with the same seeds."""
    rows, settings = spread(len(images), SHOWN), system.recipe.condition
    conditions = None if settings is None else settings.from_batch(images.batch(rows), system.tokenizer.media)
    return system.decode(system.generate_tokens(conditions, len(rows), seed=seed))


def coding_time(system: System, pictures: Tensor) -> tuple[dict[str, float], dict[str, object]]:
    """Milliseconds per item to encode and to decode in batches of 16, and their provenance.

    Args:
        system: System with the tokenizer.
        pictures: Items to encode; repeated to fill a batch.
    """
    batch = pictures.repeat(-(-TIMED // len(pictures)), 1, 1, 1)[:TIMED]
    tokens = system.encode(batch)
    system.decode(tokens)  # warm-up
    taken: dict[str, list[float]] = {"encode_ms": [], "decode_ms": []}
    for _ in range(ROUNDS):  # alternating, so that load of the machine affects both
        for name, work in (("encode_ms", lambda: system.encode(batch)), ("decode_ms", lambda: system.decode(tokens))):
            started = time.perf_counter()
            work()
            taken[name].append(1000 * (time.perf_counter() - started) / TIMED)
    how: dict[str, object] = {
        "batch": TIMED,
        "rounds": ROUNDS,
        "statistic": "median",
        "threads": torch.get_num_threads(),
        "machine": machine(),
    }
    how |= {f"{name}_range": [min(times), max(times)] for name, times in taken.items()}
    return {name: statistics.median(times) for name, times in taken.items()}, how
