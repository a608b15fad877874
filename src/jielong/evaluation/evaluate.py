"""Which figures apply to a system, measured on the held-out split, each with how it was made.

A tokenizer is asked to give pictures back (``psnr``, ``ssim``) and to use its codes (``codebook_usage``). A generator is asked for one
picture for each held-out caption or class: ``frechet`` compares them with the real held-out pictures, ``retrieval_at_1`` asks a scorer
whether each fits its own caption, and ``retrieval_at_1_real`` is what real pictures get. One that draws pixels one after the other is asked
how likely it finds the real pictures, ``bits_per_dimension``; one that draws vectors so, by a density, ``nats_per_token``. Of sound:
:mod:`jielong.evaluation.sound.tokenizers` and :mod:`jielong.evaluation.sound.generators`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.evaluation.context import BATCH, CANDIDATES, DrawSettings, EvalContext, Progress, drawing
from jielong.evaluation.protocols import protocol_of
from jielong.evaluation.provenance import Measurement, versions
from jielong.evaluation.scorer import Scorer
from jielong.system import System, is_timed
from jielong.training.checkpoint import fingerprint


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        figures: The measurements that apply, by name.
        omitted: Those that do not, and why.
        seconds: Wall time of all of it.
        provenance: What all figures share: model, data, draws, versions.
    """

    figures: dict[str, Measurement]
    omitted: dict[str, str]
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One flat object of figures, with ``seconds`` and ``provenance`` (each figure's own under its name)."""
        values: dict[str, Any] = {name: measured.value for name, measured in self.figures.items()}
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
    without: Collection[str] = (),
) -> Evaluation:
    """Measure a system on the held-out split of a set.

    Args:
        system: A tokenizer or a generator.
        data: A set's name or a path; the recipe's own by default.
        count: How many held-out items, evenly spread; all by default.
        draws: How a generator draws.
        candidates: Captions to choose from in retrieval.
        scorer: The judge of retrieval; the shipped one by default, which applies to the set it was trained on only.
        progress: Told how far it is.
        perception: For a tokenizer, also what a network sees of its reconstructions: ``perceptual`` and ``frechet``.
        ceiling: For a generator of sound, also the figures of the real sound and of what its tokenizer gives back.
        without: For a generator of sound, names of figures that are not to be made, such as ``dnsmos``: those are slow to make.

    Raises:
        jielong.data.source.DataError: if the set cannot be opened.
        ValueError: if the set lacks the captions or classes that the generator was trained on, a length is asked for that cannot be, or
            figures are to be left out that there are not.
    """
    begun = time.perf_counter()
    draws = draws or DrawSettings()
    media = system.tokenizer.media
    generates, source = system.generator is not None, data or system.recipe.data.set
    images = open_data(source, "heldout", medium=media, settings=system.recipe.data, whole=generates)
    rows = spread(len(images), count)
    report = progress or (lambda what, done, total: None)
    real = _real(images, rows, report)
    protocol = protocol_of(media)
    if draws.length is not None and not (media.timed and generates and is_timed(system.recipe)):
        raise ValueError(f"{system.name} knows nothing of lengths, so none can be asked of it: leave the length out")
    if draws.length is not None and not 0 < draws.length < math.inf:
        raise ValueError(f"a length is asked for as a multiple of the recording's, above 0, such as 0.75, not {draws.length:g}")
    if without and not (protocol.skippable and generates):
        raise ValueError(f"{system.name} has no metric to skip: those of generated audio can be, such as dnsmos")
    provenance = _provenance(system, images, rows, real)
    context = EvalContext(system, images, rows, real, draws, report, candidates, scorer, perception, ceiling, source, frozenset(without))
    found = protocol.generator(context) if generates else protocol.tokenizer(context)
    if system.generator is not None:
        provenance["draws"] = drawing(system, draws) | found.drawn
    return Evaluation(found.figures, found.omitted, time.perf_counter() - begun, provenance)


def _real(images: MediaSet, rows: list[int], report: Progress) -> Tensor:
    parts = []
    for first in range(0, len(rows), BATCH):
        parts.append(images.media(rows[first : first + BATCH]))
        report("reading", min(first + BATCH, len(rows)), len(rows))
    return torch.cat(parts)


def _provenance(system: System, images: MediaSet, rows: list[int], real: Tensor) -> dict[str, Any]:
    model = system.generator or system.tokenizer
    average = system.recipe.train.ema
    made_of: dict[str, Any] = {
        "model": system.name,
        "weights": f"average over training (EMA {average})" if average else "raw",
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
            "replaced_broken": sorted(images.keys[index] for index in images.replacements),
        },
        "versions": versions(),
        "device": str(next(model.parameters()).device),
    }
    if system.generator is not None:
        made_of["tokenizer_sha256"] = fingerprint(system.tokenizer)
    return made_of
