"""Autoregression over pixels against tokens, at equal training time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jielong.apps.lab.chains import (
    REMARK,
    Generated,
    TrainingPlan,
    bars,
    distance_gain,
    figures_of,
    generate_all,
    provenance_of,
    show,
    speedup,
    train_plan,
)
from jielong.apps.lab.statistics import level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS, COUNT = 24.0, 96
# Eight levels per colour, a small network and small batches, so that a pixel model learns within the budget.
PIXELS = TrainingPlan(
    "pixels",
    """
data: {set: emoji, size: 16}
tokenizer: {pixels: {levels: 8, flatten: true}}
condition: {class: {width: 32, cfg_dropout: 0.1}}
order: raster
backbone: {pixelcnn: {layers: 3, width: 24, features: 36, first_kernel: 5, dropout: 0}}
head: softmax
train: {samples: 1000000000, batch: 8, optimizer: muon, lr: 5.0e-3, warmup: 64, ema: 0.98, log_every: 100000, save_every: 1000000}
""",
)
TOKENS = TrainingPlan(
    "tokens",
    """
data: {set: emoji, size: 16}
tokenizer: {checkpoint: set by the experiment}
condition: {class: {width: 32, cfg_dropout: 0.1}}
order: raster
backbone: {transformer: {layers: 3, width: 96, heads: 3, condition: prefix}}
head: softmax
train: {samples: 1000000000, batch: 32, optimizer: muon, lr: 3.0e-3, warmup: 512, ema: 0.98, log_every: 100000, save_every: 1000000}
""",
    """
data: {set: emoji, size: 16}
tokenizer:
  vq:
    autoencoder: {convolutional: {patch: 2, channels: [32, 64], blocks: [1, 1]}}
    dim: 8
    quantizer: {vector: {codebook_size: 256, kmeans_iterations: 10, restart_below: 0.1}}
losses: {regression: {kind: l2, weight: 1.0}}
train: {samples: 1000000000, batch: 32, optimizer: muon, lr: 5.0e-3, warmup: 512, ema: 0.98, log_every: 100000, save_every: 1000000}
""",
    share=0.4,
)


def judge(tokens: Generated, pixels: Generated, seed: int) -> list[Check]:
    """Checks of the claim."""
    confidence = level(2)
    return [
        Check(
            "tokens: lower kernel distance than pixels at equal training time",
            distance_gain(tokens, pixels, seed, confidence),
            "above",
            0.0,
        ),
        Check("tokens: less time per image", speedup(tokens, pixels, seed, confidence), "above", 1.0),
    ]


class Pixels(Trial, name="pixels-are-the-wrong-unit"):
    """Gated PixelCNN over 768 colour values against a tokenizer and a transformer over 16 tokens."""

    claim = "At equal training time, an autoregressive model of tokens generates better images than one of pixels, and faster."

    def run(self, bench: Bench) -> Outcome:
        """Train both for the same time, tokenizer included, and generate images."""
        plans, count = (TOKENS, PIXELS), bench.scaled(COUNT, 4)
        chains = [train_plan(bench, plan, max(1.0, SECONDS * bench.budget)) for plan in plans]
        drawn = generate_all(bench, chains, count)
        figures = {name: each for chain in chains for name, each in figures_of(chain, drawn[chain.name], bench.seed).items()}

        def draw(figure: Figure) -> None:
            (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.1])
            for axes, chain in zip(above.subplots(1, 2), chains, strict=True):
                steps = chain.system.tokenizer.layout.positions
                show(axes, drawn[chain.name], f"{chain.name}: {steps} steps per image")
            left, right = below.subplots(1, 2)
            bars(left, figures, "kernel distance", ("tokens", "pixels"), "distance from real images")
            bars(right, figures, "time per image", ("tokens", "pixels"), "seconds per image")

        return Outcome(
            judge(drawn["tokens"], drawn["pixels"], bench.seed), figures, draw, (7.5, 4.6), provenance_of(chains, plans, count), (REMARK,)
        )
