"""Flow matching over latents of a tokenizer against patches of pixels, at equal training time."""

from __future__ import annotations

import torch
from torch import Tensor

from jielong.apps.lab.chains import AUTOENCODER, TOKENIZER_RECIPE, Generated, TrainingPlan, compare_plans, distance_gain
from jielong.apps.lab.statistics import bootstrap, level, share
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.data.selection import split_name
from jielong.evaluation.attributes import AttributeJudge, accuracy_of_each

SECONDS, COUNT = 45.0, 64
SET = "faces?expression=smiling"
"""Four thousand pictures in five styles."""
LESS = 0.1
"""Bound: how much lower the share of pictures of the right style may be."""
_GENERATOR = """
data: {{set: "{data}", size: 32}}
tokenizer: {tokenizer}
condition: {{class: {{width: 64, cfg_dropout: 0.1}}}}
order: at_once
backbone: {{none: {{width: 64}}}}
head: {{flow_matching: {{network: {{dit: {{layers: 4, width: 128, heads: 4}}}}, steps: 20, diffusion_batch_mul: 1, {more}}}}}
train: {{samples: 1000000000, batch: 32, optimizer: muon, lr: 3.0e-3, warmup: 512, ema: 0.98, log_every: 100000, save_every: 1000000}}
"""
LATENT = TrainingPlan(
    "latents",
    _GENERATOR.format(data=SET, tokenizer="{checkpoint: set by the experiment}", more="times: {kind: logit_normal}"),
    TOKENIZER_RECIPE.format(tokenizer=f"{{kl: {{{AUTOENCODER}, weight: 0.02}}}}").replace("set: emoji", f'set: "{SET}"'),
    share=0.3,
)
PIXEL = TrainingPlan(
    "pixels",
    _GENERATOR.format(
        data=SET,
        tokenizer="{patches: {patch: 4, std: 1.0}}",
        more="prediction: x, times: {kind: logit_normal, mean: -0.8, std: 0.8}",
    ),
)
"""One network over 8 x 8 tokens: latents of 8 channels (LDM, arXiv 2112.10752), or patches of 4 x 4 x 3 pixels (JiT, arXiv 2511.13720)."""


def judge(latent: Generated, pixel: Generated, seed: int, styles: tuple[Tensor, Tensor] | None = None) -> list[Check]:
    """Checks of the claim, paired by class.

    Args:
        latent: Pictures from latents.
        pixel: Pictures from patches.
        seed: Seed of the resampling.
        styles: Whether each picture of either shows the style of its class, ``(n,)``; ``None`` where no judge reads them.
    """
    confidence = level(1 if styles is None else 2)
    checks = [
        Check(
            "latents: lower kernel distance than pixels at equal training time",
            distance_gain(latent, pixel, seed, confidence),
            "above",
            0.0,
        )
    ]
    if styles is not None:
        gain = styles[0].double() - styles[1].double()
        says = f"latents: share of pictures in the style of their class at most {LESS:.0%} below that of pixels"
        checks.append(Check(says, bootstrap(gain, seed, confidence, "of the pictures"), "above", -LESS))
    return checks


class LatentOrPixel(Trial, name="latent-or-pixel"):
    """The same network with flow matching over latents, tokenizer included, and with x-prediction over patches of pixels."""

    claim = (
        "At equal training time, tokenizer included, flow matching over latents generates more realistic pictures than x-prediction over "
        "patches of pixels, and in the right style as often."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train both for the same time, and generate held-out classes."""
        found = compare_plans(bench, (LATENT, PIXEL), SECONDS, COUNT)
        latent, pixel = (found.generated[plan.name] for plan in (LATENT, PIXEL))
        styles = _styles(found.systems[0].system.recipe.data.set, [latent.items, pixel.items])
        if styles is not None:
            found.figures.update({f"right style, {plan.name}": share(each) for plan, each in zip((LATENT, PIXEL), styles, strict=True)})
        return found.outcome(
            judge(latent, pixel, bench.seed, styles),
            [
                "equal wall time of training, 30 % of it for the tokenizer of the latents; the network and the number of tokens are the "
                "same, and so is the cost of a step and of an evaluation but for the decoder",
                *([] if styles is not None else ["styles are not measured: no judge of this data set is installed"]),
            ],
            titles={
                LATENT.name: "latents of 8 channels, v-prediction",
                PIXEL.name: "patches of 4 x 4 pixels, x-prediction",
            },
        )


def _styles(data: str, pictures: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Whether pictures of held-out classes show the style that a class is, ``(n,)`` bool for each set; ``None`` without a judge."""
    attributes = AttributeJudge.of(split_name(data)[0])
    if attributes is None:
        return None
    heldout = open_data(data, split="heldout")
    wanted = {"style": [heldout.classes[heldout.labels[row] or 0] for row in spread(len(heldout), len(pictures[0]))]}
    first, second = (accuracy_of_each(some, wanted, attributes).to(torch.bool) for some in pictures)
    return first, second
