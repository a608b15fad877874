"""Next-scale against raster order, at equal training time."""

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

SECONDS, COUNT = 27.0, 96
_TOKENIZER = """
data: {{set: emoji, size: 32}}
tokenizer:
  vq:
    autoencoder: {{convolutional: {{patch: 4, channels: [64], blocks: [1]}}}}
    dim: 8
    quantizer: {quantizer}
losses: {{regression: {{kind: l2, weight: 1.0}}}}
train: {{samples: 1000000000, batch: 32, optimizer: muon, lr: 5.0e-3, warmup: 512, ema: 0.98, log_every: 100000, save_every: 1000000}}
"""
_GENERATOR = """
data: {{set: emoji, size: 32}}
tokenizer: {{checkpoint: set by the experiment}}
condition: {{class: {{width: 32, cfg_dropout: 0.1}}}}
order: {order}
backbone: {{transformer: {{layers: 3, width: 96, heads: 3, condition: prefix}}}}
head: softmax
train: {{samples: 1000000000, batch: 32, optimizer: muon, lr: 3.0e-3, warmup: 512, ema: 0.98, log_every: 100000, save_every: 1000000}}
"""
SKETCH = TrainingPlan(
    "next-scale",
    _GENERATOR.format(order="next_scale"),
    _TOKENIZER.format(quantizer="{multi_scale: {codebook_size: 256, scales: auto, balance: 0.5, dropout: 0.1, commitment: 0.25}}"),
    share=0.35,
)
ROWS = TrainingPlan(
    "raster",
    _GENERATOR.format(order="raster"),
    _TOKENIZER.format(quantizer="{vector: {codebook_size: 256, kmeans_iterations: 10, restart_below: 0.1}}"),
    share=0.35,
)


def judge(sketch: Generated, rows: Generated, seed: int) -> list[Check]:
    """Checks of the claim."""
    confidence = level(2)
    return [
        Check(
            "next scale: lower kernel distance than raster at equal training time",
            distance_gain(sketch, rows, seed, confidence),
            "above",
            0.0,
        ),
        Check("next scale: less time per image", speedup(sketch, rows, seed, confidence), "above", 1.0),
    ]


class SketchFirst(Trial, name="sketch-first"):
    """The same network in raster order over 8 x 8 tokens and in next-scale order over six scales."""

    claim = "At equal training time, next-scale order generates better images than raster order, and faster."

    def run(self, bench: Bench) -> Outcome:
        """Train both for the same time, tokenizers included, and generate images."""
        plans, count = (SKETCH, ROWS), bench.scaled(COUNT, 4)
        chains = [train_plan(bench, plan, max(1.0, SECONDS * bench.budget)) for plan in plans]
        drawn = generate_all(bench, chains, count)
        figures = {name: each for chain in chains for name, each in figures_of(chain, drawn[chain.name], bench.seed).items()}
        names = [chain.name for chain in chains]

        def draw(figure: Figure) -> None:
            (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.1])
            for axes, chain in zip(above.subplots(1, 2), chains, strict=True):
                show(axes, drawn[chain.name], chain.name)
            left, right = below.subplots(1, 2)
            bars(left, figures, "kernel distance", names, "distance from real images")
            bars(right, figures, "time per image", names, "seconds per image")

        return Outcome(
            judge(drawn[SKETCH.name], drawn[ROWS.name], bench.seed),
            figures,
            draw,
            (7.5, 4.6),
            provenance_of(chains, plans, count),
            (REMARK, "next scale has more bits per image, as it encodes every scale: see the figures"),
        )
