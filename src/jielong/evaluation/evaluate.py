"""Evaluation on the held-out split: the figures that apply to a system, each with its provenance.

Tokenizers of pictures: reconstruction (``psnr``, ``ssim``) and ``codebook_usage``. Generators of pictures, one per held-out caption or
class: the ``frechet`` distance from the real pictures; ``precision``, ``recall``, ``density`` and ``coverage`` of their manifolds; R@1 of
the caption by a scorer (``retrieval_at_1``); the class of the nearest training picture (``class_at_1``); ``memorised`` and
``authenticity``, of distances to training pictures; ``attribute_accuracy`` where the set's attributes have a judge (`faces`); each also
of real pictures (``_real``); and likelihoods of autoregressive generators and flows, ``bits_per_dimension`` of pictures or
``nats_per_token`` of continuous tokens. Audio: :mod:`jielong.evaluation.sound.tokenizers` and :mod:`jielong.evaluation.sound.generators`.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jielong.config.schema import Recipe
from jielong.core.json import JSON
from jielong.core.medium import Medium
from jielong.data.opening import open_quietly, warn_of_unused
from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.evaluation.context import BATCH, CANDIDATES, KNOWN, DrawSettings, EvalContext, Progress, check_negative_text, drawing
from jielong.evaluation.protocols import protocol_of
from jielong.evaluation.provenance import Measurement, versions
from jielong.evaluation.scorer import Scorer
from jielong.media.results import ResultItem, Results
from jielong.system import System, is_timed
from jielong.system.usable import usable
from jielong.training.checkpoint import fingerprint


@dataclass(frozen=True)
class Evaluation:
    """Figures of a system.

    Attributes:
        figures: The measurements that apply, by name.
        omitted: Those that do not, and why.
        seconds: Wall time.
        provenance: Model, data, sampling and versions.
        items: The generated or reconstructed items, where the medium's protocol makes them.
        pairs: Samples most similar to training items, then these training items.
    """

    figures: dict[str, Measurement]
    omitted: dict[str, str]
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)
    items: Results[ResultItem] | None = None
    pairs: Results[ResultItem] | None = None

    def to_json(self) -> dict[str, Any]:
        """One flat object of figures, with ``seconds`` and ``provenance`` (each figure's own under its name)."""
        values: JSON = {name: measured.value for name, measured in self.figures.items()}
        details = {name: {"n": measured.n, **measured.details} for name, measured in self.figures.items()}
        return values | {"seconds": round(self.seconds, 2), "provenance": self.provenance | {"figures": details, "omitted": self.omitted}}


def evaluate(
    system: System,
    data: str | None = None,
    count: int | None = None,
    draws: DrawSettings | None = None,
    candidates: int = CANDIDATES,
    scorer: Scorer | None = None,
    progress: Progress | None = None,
    perception: bool = False,
    ceiling: bool = True,
    skip_metrics: Collection[str] = (),
    known: int = KNOWN,
) -> Evaluation:
    """Measure a system on the held-out split of a set.

    Args:
        system: A tokenizer or a generator.
        data: A set's name or a path; the recipe's own by default.
        count: Held-out items, evenly spread; all by default.
        draws: How a generator samples.
        candidates: Captions to choose from in retrieval.
        scorer: Scorer of retrieval; the shipped one by default, which applies only to the set it was trained on.
        progress: Progress callback.
        perception: For a tokenizer of pictures, also ``perceptual`` and ``frechet``.
        ceiling: For a generator of audio, also the figures of real clips and of their reconstructions.
        skip_metrics: Figures of generated audio that are not computed, such as ``dnsmos``, which is slow.
        known: Most training items that generated ones are compared with.

    Raises:
        jielong.data.source.DataError: if the set cannot be opened.
        ValueError: if the set lacks an input of the condition, the model takes no such length, or there is no metric of a name to skip.
    """
    begun = time.perf_counter()
    draws = draws or DrawSettings()
    media = system.tokenizer.media
    generates, source = system.generator is not None, data or system.recipe.data.set
    images = heldout_items(system.recipe, source, media, count)
    warn_of_unused(images.name, images.unused)
    rows = spread(len(images), count)
    report = progress or (lambda what, done, total: None)
    real = _real(images, rows, report)
    protocol = protocol_of(media)
    if draws.length is not None and not (media.timed and generates and is_timed(system.recipe)):
        raise ValueError(f"{system.name} takes no durations: leave out --length")
    if draws.length is not None and not 0 < draws.length < math.inf:
        raise ValueError(f"a length is a multiple of the real one, above 0, such as --length 0.75, not {draws.length:g}")
    if draws.negative_text:
        check_negative_text(system, draws)
    if skip_metrics and not (protocol.skippable and generates):
        raise ValueError(f"{system.name} has no metric to skip: those of generated audio can be, such as dnsmos")
    provenance = _provenance(system, images, rows, real)
    context = EvalContext(
        system, images, rows, real, draws, report, candidates, scorer, perception, ceiling, source, frozenset(skip_metrics), known
    )
    found = protocol.generator(context) if generates else protocol.tokenizer(context)
    if system.generator is not None:
        provenance["draws"] = drawing(system, draws) | found.drawn
    return Evaluation(found.figures, found.omitted, time.perf_counter() - begun, provenance, found.items, found.pairs)


def heldout_items(recipe: Recipe, source: str, medium: Medium | None = None, count: int | None = None) -> MediaSet:
    """The held-out items that a recipe's system is measured on, without those that lack an input or cannot be decoded.

    Args:
        recipe: The recipe.
        source: A set's name or a path.
        medium: What the system reads; by default as the recipe's data settings describe.
        count: Items measured, evenly spread, which are decoded; all by default.

    Raises:
        jielong.data.source.DataError: if there is none.
    """
    found = open_quietly(source, "heldout", medium=medium, settings=recipe.data, whole=recipe.trains_generator)
    return usable(found, recipe, "skip").without_broken(count)


def _real(images: MediaSet, rows: list[int], report: Progress) -> Tensor:
    parts = []
    for first in range(0, len(rows), BATCH):
        parts.append(images.media(rows[first : first + BATCH]))
        report("reading", min(first + BATCH, len(rows)), len(rows))
    return torch.cat(parts)


def _weights_words(system: System) -> str:
    """Which weights of its training a system has, in words."""
    average, kept = system.recipe.train.ema, None
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        kept = json.loads((Path(system.name) / "summary.json").read_text(encoding="utf-8"))["kept"]["weights"]
    words = f"EMA weights (decay {average})" if average else "raw"
    return words if kept in (None, "last") else f"{words}, best of the run" if kept == "best" else str(kept)


def _provenance(system: System, images: MediaSet, rows: list[int], real: Tensor) -> JSON:
    model = system.generator or system.tokenizer
    provenance: JSON = {
        "model": system.name,
        "weights": _weights_words(system),
        "weights_sha256": fingerprint(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "reference": {
            "set": images.name,
            "split": "heldout",
            "n": len(rows),
            "of": len(images),
            "data_sha256": images.fingerprint,
            **protocol_of(images.medium).digest(real, images.medium),
            "size": list(real.shape[1:]),
            "left_out": {str(cause): sorted(entry.name for entry in entries) for cause, entries in images.left_out.by_cause().items()},
        },
        "versions": versions(),
        "device": str(next(model.parameters()).device),
    }
    if system.generator is not None:
        provenance["tokenizer_sha256"] = fingerprint(system.tokenizer)
    return provenance
