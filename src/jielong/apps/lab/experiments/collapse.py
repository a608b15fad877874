"""Codebook usage after a short training, with and without measures against collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from jielong.apps.lab.statistics import level, student
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.core.tokens import Tokens
from jielong.data.opening import open_data
from jielong.evaluation.reconstruction import psnr
from jielong.evaluation.usage import codebook_usage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES, SEEDS = 1024, 4
ALONE, ALL = "baseline", "all measures"
_QUANTIZER = "tokenizer.vq.quantizer.vector"
MEASURES: Mapping[str, tuple[str, ...]] = {
    "k-means start": (f"{_QUANTIZER}.kmeans_iterations=10",),
    "restarts": (f"{_QUANTIZER}.restart_below=0.1",),
    "EMA codebook": (f"{_QUANTIZER}.codebook=ema",),
    "8 dimensions": ("tokenizer.vq.dim=8",),
    "cosine lookup (l2)": (f"{_QUANTIZER}.normalize=true",),
}
COLLAPSED, HEALTHY = 0.5, 0.9
"""Codebook usage below which a codebook is collapsed, and above which it is healthy."""

# VQ-VAE as published: random codes of the encoder's width, updated by gradient. Usage counts decay by 0.9, as a run has 64 steps.
RECIPE = """
data: {set: emoji, size: 32}
tokenizer:
  vq:
    autoencoder: {convolutional: {patch: 4, channels: [32], blocks: [1]}}
    dim: 64
    quantizer: {vector: {codebook_size: 512, codebook: gradient, decay: 0.9, kmeans_iterations: 0, restart_below: 0}}
losses: {regression: {kind: l2, weight: 1.0}}
train: {samples: 1024, batch: 16, lr: 2.0e-3, warmup: 128, ema: 0.9, log_every: 256, sample_every: 1000000, save_every: 1000000}
"""


def judge(usage: Mapping[str, Sequence[float]]) -> list[Check]:
    """Checks of the claim.

    Args:
        usage: Codebook usage by variant, one value per seed.
    """
    confidence, alone = level(2 + len(MEASURES)), usage[ALONE]
    gains = {name: [with_measure - left for with_measure, left in zip(usage[name], alone, strict=True)] for name in MEASURES}
    return [
        Check("baseline: usage below 50%", student(alone, confidence), "below", COLLAPSED),
        *(Check(f"{name}: higher usage than the baseline", student(gain, confidence), "above", 0.0) for name, gain in gains.items()),
        Check("all measures together: usage above 90%", student(usage[ALL], confidence), "above", HEALTHY),
    ]


class Collapse(Trial, name="collapse"):
    """A small tokenizer with 512 codes, four seeds per variant."""

    claim = "A codebook without measures against collapse collapses, and each of the usual measures increases codebook usage."

    def run(self, bench: Bench) -> Outcome:
        """Train each variant with each seed and measure codebook usage on held-out images."""
        samples = bench.scaled(SAMPLES, 64)
        variants = {ALONE: (), **MEASURES, ALL: tuple(change for changes in MEASURES.values() for change in changes)}
        heldout = open_data("emoji", size=32, split="heldout")
        pictures = heldout.media(range(len(heldout)))
        usage: dict[str, list[float]] = {name: [] for name in variants}
        perplexity: dict[str, list[float]] = {name: [] for name in variants}
        quality: dict[str, list[float]] = {name: [] for name in variants}
        seeds = range(bench.seed, bench.seed + bench.scaled(SEEDS))
        for seed in seeds:
            for index, (name, changes) in enumerate(variants.items()):
                short = (f"train.samples={samples}", f"train.warmup={samples // 8}", f"train.seed={seed}")
                system, _ = bench.train(f"codebook-{index}-seed-{seed}", RECIPE, [*changes, *short])
                tokens = system.encode(pictures)
                used = codebook_usage(Tokens(tokens.values, tokens.layout))
                usage[name].append(used.value)
                perplexity[name].append(used.number("perplexity"))
                quality[name].append(psnr(system.decode(tokens), pictures).value)
        figures = {f"codebook usage, {name}": student(runs) for name, runs in usage.items()}
        figures |= {f"perplexity, {name}": student(runs, unit="codes") for name, runs in perplexity.items()}
        figures |= {f"PSNR, {name}": student(runs, unit="dB") for name, runs in quality.items()}

        def draw(figure: Figure) -> None:
            _draw(figure, usage, perplexity)

        return Outcome(
            judge(usage),
            figures,
            draw,
            (8.0, 3.6),
            {
                "recipe": RECIPE,
                "variants": {name: list(changes) for name, changes in variants.items()},
                "samples": samples,
                "seeds": list(seeds),
                "pictures": {"set": heldout.name, "split": "heldout", "n": len(heldout), "data_sha256": heldout.fingerprint},
            },
            (f"{samples:,} samples per run: with longer training, some unused codes come into use without any measure",),
        )


def _draw(figure: Figure, usage: Mapping[str, Sequence[float]], perplexity: Mapping[str, Sequence[float]]) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(usage)[::-1]
    for axes, values, title in (
        (left, usage, "codebook usage (512 codes)"),
        (right, perplexity, "perplexity"),
    ):
        means = torch.tensor([list(values[name]) for name in names]).mean(1)
        axes.barh(names, means.tolist(), color=["#999" if name == ALONE else "#2a7" for name in names], alpha=0.7)
        for index, name in enumerate(names):
            axes.plot(list(values[name]), [index] * len(values[name]), "k.", markersize=4)
        axes.set_title(title)
    left.set_xlim(0, 1)
