"""Autoregression over pixels against tokens, at equal training time."""

from __future__ import annotations

from jielong.apps.lab.chains import Generated, TrainingPlan, better_and_faster, compare_plans
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check

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
    return better_and_faster(("tokens", "pixels"), tokens, pixels, seed)


class Pixels(Trial, name="pixels-are-the-wrong-unit"):
    """Gated PixelCNN over 768 colour values against a tokenizer and a transformer over 16 tokens."""

    claim = "At equal training time, an autoregressive model of tokens generates better images than one of pixels, and faster."

    def run(self, bench: Bench) -> Outcome:
        """Train both for the same time, tokenizer included, and generate images."""
        found = compare_plans(bench, (TOKENS, PIXELS), SECONDS, COUNT)
        steps = {each.name: each.system.tokenizer.layout.positions for each in found.systems}
        return found.outcome(
            judge(found.generated[TOKENS.name], found.generated[PIXELS.name], bench.seed),
            titles={name: f"{name}: {count} steps per image" for name, count in steps.items()},
        )
