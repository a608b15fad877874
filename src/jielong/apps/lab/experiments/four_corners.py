"""Raster or random order over codes or continuous latents (Fluid), at equal training time."""

from __future__ import annotations

from collections.abc import Mapping

from jielong.apps.lab.chains import (
    AUTOENCODER,
    GENERATOR_RECIPE,
    TOKENIZER_RECIPE,
    Generated,
    TrainingPlan,
    compare_plans,
    distance_gain,
)
from jielong.apps.lab.statistics import level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check

SECONDS, COUNT = 19.0, 64
_ORDERS = {"raster": "raster", "random": "{masked: {steps: 16, choose: random, ratio: {kind: truncated_normal}}}"}
_TOKENS = {
    "codes": (
        f"{{vq: {{{AUTOENCODER}, quantizer: {{vector: {{codebook_size: 256, kmeans_iterations: 10, restart_below: 0.1}}}}}}}}",
        "softmax",
    ),
    "vectors": (
        f"{{kl: {{{AUTOENCODER}, weight: 0.02}}}}",
        "{diffusion: {network: {mlp: {layers: 2, width: 96}}, steps: 16, diffusion_batch_mul: 2}}",
    ),
}
PLANS = {
    (order, tokens): TrainingPlan(
        f"{order} {tokens}",
        GENERATOR_RECIPE.format(order=order_part, head=head),
        TOKENIZER_RECIPE.format(tokenizer=tokenizer),
        share=0.3,
    )
    for order, order_part in _ORDERS.items()
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
        found = compare_plans(bench, list(PLANS.values()), SECONDS, COUNT)
        generated = {corner: found.generated[plan.name] for corner, plan in PLANS.items()}
        return found.outcome(
            judge(generated, bench.seed),
            ["both kinds of tokens have 64 positions and a bottleneck of 8 channels; bits are not defined for vectors"],
            size=(9.5, 4.8),
        )
