"""Next-scale against raster order, at equal training time."""

from __future__ import annotations

from jielong.apps.lab.chains import (
    AUTOENCODER,
    GENERATOR_RECIPE,
    TOKENIZER_RECIPE,
    Generated,
    TrainingPlan,
    better_and_faster,
    compare_plans,
)
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check

SECONDS, COUNT = 27.0, 96


def _plan(name: str, order: str, quantizer: str) -> TrainingPlan:
    tokenizer = TOKENIZER_RECIPE.format(tokenizer=f"{{vq: {{{AUTOENCODER}, quantizer: {quantizer}}}}}")
    return TrainingPlan(name, GENERATOR_RECIPE.format(order=order, head="softmax"), tokenizer, share=0.35)


SKETCH = _plan(
    "next-scale", "next_scale", "{multi_scale: {codebook_size: 256, scales: auto, balance: 0.5, dropout: 0.1, commitment: 0.25}}"
)
ROWS = _plan("raster", "raster", "{vector: {codebook_size: 256, kmeans_iterations: 10, restart_below: 0.1}}")


def judge(sketch: Generated, rows: Generated, seed: int) -> list[Check]:
    """Checks of the claim."""
    return better_and_faster(("next scale", "raster"), sketch, rows, seed)


class SketchFirst(Trial, name="sketch-first"):
    """The same network in raster order over 8 x 8 tokens and in next-scale order over six scales."""

    claim = "At equal training time, next-scale order generates better images than raster order, and faster."

    def run(self, bench: Bench) -> Outcome:
        """Train both for the same time, tokenizers included, and generate images."""
        found = compare_plans(bench, (SKETCH, ROWS), SECONDS, COUNT)
        return found.outcome(
            judge(found.generated[SKETCH.name], found.generated[ROWS.name], bench.seed),
            ["next scale has more bits per image, as it encodes every scale: see the figures"],
        )
