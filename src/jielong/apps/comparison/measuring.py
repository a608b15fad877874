"""Metrics and cost of one system."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.evaluation.context import DrawSettings
from jielong.evaluation.evaluate import Evaluation, evaluate, heldout_items
from jielong.evaluation.protocols import protocol_of
from jielong.evaluation.provenance import machine
from jielong.media.images import write_image
from jielong.media.kinds.base import kind_of
from jielong.media.results import ResultItem, Results
from jielong.system import System

SHOWN = 8
"""Most items of a sample grid."""
TIMED, ROUNDS = 16, 5
"""Batch size and number of timing rounds."""
SLOW = frozenset({"dnsmos"})
"""Figures that take seconds an item, which a comparison leaves to ``jielong evaluate``."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Measured:
    """Figures of a system.

    Attributes:
        figures: Values by name.
        omitted: Reasons of omitted figures.
        provenance: Provenance of the figures.
        shown: Samples or reconstructions of a few held-out items.
        pairs: Samples most similar to training items, then these training items.
    """

    figures: dict[str, float]
    omitted: dict[str, str]
    provenance: dict[str, Any]
    shown: Results[ResultItem]
    pairs: Results[ResultItem] | None = None


def measure(system: System, data: str | None, count: int | None, seed: int, progress: Progress | None = None) -> Measured:
    """Measure one system.

    Args:
        system: A tokenizer or a generator.
        data: Name or path of a data set; the recipe's by default.
        count: Held-out items; all by default.
        seed: Sampling seed.
        progress: Called with the stage, items done and their total.
    """
    medium, generates = system.tokenizer.media, system.generator is not None
    items = heldout_items(system.recipe, data or system.recipe.data.set, medium, count)
    skipped = SLOW & protocol_of(medium).skippable if generates else frozenset[str]()
    evaluation = evaluate(system, data, count, DrawSettings(seed=seed), progress=progress, perception=True, skip_metrics=skipped)
    figures = {name: figure.value for name, figure in evaluation.figures.items()}
    provenance = evaluation.to_json()["provenance"]
    layout = system.tokenizer.layout
    figures |= {"parameters": provenance["parameters"], "positions": layout.positions}
    if layout.bits is not None:
        figures["bits"] = layout.bits
    else:
        figures["numbers"] = layout.positions * layout.channels
    if generates:
        figures |= {name: value for name, value in provenance["draws"].items() if name.startswith("seconds_per")}
    else:
        costs, how = coding_time(system, items.media(spread(len(items), SHOWN)))
        figures |= costs
        provenance["coding_time"] = how
    omitted = {name: reason for name, reason in evaluation.omitted.items() if name not in skipped}
    shown = _shown(system, evaluation, items, count, seed)
    return Measured(figures, omitted | _without_frechet(evaluation), provenance, shown, evaluation.pairs)


def _without_frechet(evaluation: Evaluation) -> dict[str, str]:
    figure = evaluation.figures.get("frechet")
    return {} if figure is None or "warning" not in figure.details else {"more about frechet": str(figure.details["warning"])}


def shown_rows(items: MediaSet, count: int | None) -> list[int]:
    """Rows of a held-out set that sample grids show, some of those that are measured."""
    rows = spread(len(items), count)
    return [rows[place] for place in spread(len(rows), min(SHOWN, items.kind.sample_count))]


def originals(items: MediaSet, rows: Sequence[int]) -> Results[ResultItem]:
    """Held-out items as they are saved and shown."""
    lengths = [items.length(row) for row in rows] if items.medium.timed else None
    return items.kind.wrap(items.media(rows), items.medium, lengths=lengths)


def _shown(system: System, evaluation: Evaluation, items: MediaSet, count: int | None, seed: int) -> Results[ResultItem]:
    """What evaluation made of the items shown; drawn here where its protocol draws none."""
    rows, made = shown_rows(items, count), evaluation.items
    if made is None:
        settings = system.recipe.condition
        conditions = None if settings is None else settings.from_batch(items.batch(rows), system.tokenizer.media)
        return system.wrap(system.generate_tokens(conditions, len(rows), seed=seed))
    measured = spread(len(items), count)
    places = [measured.index(row) for row in rows]
    lengths = None if made.lengths is None else [made.lengths[place] for place in places]
    return kind_of(items.medium).wrap(made.tensor[places], items.medium, lengths=lengths)


def write_sheet(path: Path, shown: Results[ResultItem]) -> None:
    """Write a grid of one row; and of items that an image does not show, such as sounds and videos, a folder of files beside it.

    A video is a row of frames itself: they are below one another.
    """
    if shown.sample_suffix is not None:
        shown.save(path.with_suffix(""))
    write_image(path, shown.sheet(columns=1 if shown.sample_columns == 1 else len(shown)))


def coding_time(system: System, media: Tensor) -> tuple[dict[str, float], dict[str, object]]:
    """Milliseconds per item to encode and to decode in batches of 16, and their provenance.

    Args:
        system: System with the tokenizer.
        media: Items to encode; repeated to fill a batch.
    """
    batch = media.repeat(-(-TIMED // len(media)), *(1,) * (media.ndim - 1))[:TIMED]
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
