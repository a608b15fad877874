"""Reconstruction error of a codec by the number of residual codebooks decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.statistics import bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.apps.lab.voices import BODY, DATA, FAST, MEL, RATE, REGRESSION, data_overrides, mel_errors, show, train_section, voices
from jielong.core.tokens import Tokens
from jielong.system import System
from jielong.tokenizers.vq import VQTokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIME, CLIPS, LEVELS = 60.0, 96, 6
RECIPE = f"""
{DATA}
tokenizer:
  vq:
    {BODY}
    dim: 16
    quantizer:
      residual:
        num_codebooks: {LEVELS}
        dropout: 1.0
        quantizer: {{vector: {{codebook_size: 64, kmeans_iterations: 10, restart_below: 0.1, decay: 0.9}}}}
losses: {{{REGRESSION}, {MEL}}}
{train_section(FAST, batch=16)}
"""


@torch.no_grad()
def with_levels(system: System, sounds: Tensor, levels: int) -> Tensor:
    """Reconstructions from the first ``levels`` codebooks."""
    tokenizer = system.tokenizer
    assert isinstance(tokenizer, VQTokenizer)
    codes = tokenizer.encode(sounds).values[..., :levels]
    vectors = tokenizer.quantizer.decode(codes)
    return tokenizer.decode(Tokens(vectors, replace(tokenizer.layout, channels=vectors.shape[-1], vocabulary=None)))


def judge(errors: Mapping[int, Tensor], seed: int) -> list[Check]:
    """Checks of the claim.

    Args:
        errors: Error of each clip by number of levels, paired.
        seed: Seed of the resampling.
    """
    confidence = level(len(errors) - 1)
    return [
        Check(f"level {more} lowers the error", bootstrap(errors[less] - errors[more], seed, confidence, "dB"), "above", 0.0)
        for less, more in pairwise(sorted(errors))
    ]


class Carry(Trial, name="carry"):
    """A codec with six codebooks of 64 codes, trained with quantizer dropout, on unseen clips."""

    claim = "Every level of a residual quantizer encodes a residual of those before it, so each level lowers the reconstruction error."

    def run(self, bench: Bench) -> Outcome:
        """Train one codec and decode the same clips with each number of levels."""
        system, _ = bench.train("codec", RECIPE, data_overrides(bench), seconds=max(1.0, TIME * bench.budget))
        real = voices(bench.scaled(CLIPS, 4), bench.seed + 10_000)
        rebuilt = {count: with_levels(system, real, count) for count in range(1, LEVELS + 1)}
        errors = {count: mel_errors(each, real) for count, each in rebuilt.items()}
        bits = (system.tokenizer.layout.bits or 0.0) / LEVELS / (system.tokenizer.media.size[0] / RATE) / 1000
        figures = {f"mel distance, {count} levels": bootstrap(each, bench.seed, unit="dB") for count, each in errors.items()}
        figures |= {f"bitrate, {count} levels": exact(count * bits, "kbit/s") for count in errors}

        def draw(figure: Figure) -> None:
            _draw(figure, errors, [real, *rebuilt.values()])

        provenance = {"recipe": RECIPE, "clips": len(real), "error": "mean absolute difference of log power in 80 mel bands"}
        remark = "one training run: intervals are over clips, not over training runs"
        return Outcome(judge(errors, bench.seed), figures, draw, (8.0, 4.2), provenance, (remark,))


def _draw(figure: Figure, errors: Mapping[int, Tensor], sounds: Sequence[Tensor]) -> None:
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False)
    titles = ["real", *(f"{count} level{'s' * (count > 1)}" for count in errors)]
    for axes, title, sound in zip(above.subplots(1, len(titles)), titles, sounds, strict=True):
        show(axes, sound[0], title)
    axes = below.subplots()
    axes.plot(list(errors), [float(each.mean()) for each in errors.values()], "o-", color="#2a7")
    axes.set_xlabel("levels of codes")
    axes.set_ylabel("mel distance (dB)")
