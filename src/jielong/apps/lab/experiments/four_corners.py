"""Raster or random order over codes or continuous latents (Fluid), at equal training time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jielong.apps.lab.chains import (
    REMARK,
    Generated,
    TrainedSystem,
    TrainingPlan,
    bars,
    distance_gain,
    figures_of,
    generate_all,
    provenance_of,
    show,
    train_plan,
)
from jielong.apps.lab.statistics import level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS, COUNT = 19.0, 64
_TOKENIZER = """
data: {{set: emoji, size: 32}}
tokenizer:
  {tokenizer}
losses: {{regression: {{kind: l2, weight: 1.0}}}}
train: {{samples: 1000000000, batch: 32, optimizer: muon, lr: 5.0e-3, warmup: 512, ema: 0.98, log_every: 100000, save_every: 1000000}}
"""
_GENERATOR = """
data: {{set: emoji, size: 32}}
tokenizer: {{checkpoint: set by the experiment}}
condition: {{class: {{width: 32, cfg_dropout: 0.1}}}}
order: {order}
backbone: {{transformer: {{layers: 3, width: 96, heads: 3, condition: prefix}}}}
head: {head}
train: {{samples: 1000000000, batch: 32, optimizer: muon, lr: 3.0e-3, warmup: 512, ema: 0.98, log_every: 100000, save_every: 1000000}}
"""
_BODY = "autoencoder: {convolutional: {patch: 4, channels: [64], blocks: [1]}}, dim: 8"
_ORDERS = {"raster": "raster", "random": "{masked: {steps: 16, choose: random, ratio: {kind: truncated_normal}}}"}
_TOKENS = {
    "codes": (f"vq: {{{_BODY}, quantizer: {{vector: {{codebook_size: 256, kmeans_iterations: 10, restart_below: 0.1}}}}}}", "softmax"),
    "vectors": (
        f"kl: {{{_BODY}, weight: 0.02}}",
        "{diffusion: {network: {mlp: {layers: 2, width: 96}}, steps: 16, diffusion_batch_mul: 2}}",
    ),
}
PLANS = {
    (order, tokens): TrainingPlan(
        f"{order} {tokens}",
        _GENERATOR.format(order=written, head=head),
        _TOKENIZER.format(tokenizer=tokenizer),
        share=0.3,
    )
    for order, written in _ORDERS.items()
    for tokens, (tokenizer, head) in _TOKENS.items()
}
BEST = ("random", "vectors")


def judge(drawn: Mapping[tuple[str, str], Generated], seed: int) -> list[Check]:
    """Checks of the claim: one corner against each of the others, paired by class."""
    others = [corner for corner in PLANS if corner != BEST]
    confidence = level(len(others))
    return [
        Check(
            f"{PLANS[BEST].name}: lower kernel distance than {PLANS[corner].name} at equal training time",
            distance_gain(drawn[BEST], drawn[corner], seed, confidence),
            "above",
            0.0,
        )
        for corner in others
    ]


class FourCorners(Trial, name="four-corners"):
    """Two orders and two kinds of tokens with one backbone over 8 x 8 tokens."""

    claim = (
        "Of raster or random order over codes or continuous latents, random order over latents has the lowest distance from real images."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train all four for the same time, tokenizers included, and generate images."""
        count = bench.scaled(COUNT, 4)
        chains: dict[tuple[str, str], TrainedSystem] = {}
        for corner, plan in PLANS.items():
            chains[corner] = train_plan(bench, plan, max(1.0, SECONDS * bench.budget))
        by_name = generate_all(bench, list(chains.values()), count)
        drawn = {corner: by_name[plan.name] for corner, plan in PLANS.items()}
        figures = {name: each for corner, chain in chains.items() for name, each in figures_of(chain, drawn[corner], bench.seed).items()}
        names = [plan.name for plan in PLANS.values()]

        def draw(figure: Figure) -> None:
            (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.1])
            for axes, name in zip(above.subplots(1, 4), names, strict=True):
                show(axes, by_name[name], name)
            for axes, (what, title) in zip(
                below.subplots(1, 2),
                (("kernel distance", "distance from real images"), ("time per image", "seconds per image")),
                strict=True,
            ):
                bars(axes, figures, what, names, title)
                axes.tick_params(axis="x", rotation=15)

        return Outcome(
            judge(drawn, bench.seed),
            figures,
            draw,
            (9.5, 4.8),
            provenance_of(list(chains.values()), list(PLANS.values()), count),
            (
                REMARK,
                "both kinds of tokens have 64 positions and a bottleneck of 8 channels; bits are not defined for vectors",
            ),
        )
