"""What does "alike" mean? Three losses look at copies that are shifted by a hair, blurred, or of something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.apps.lab.sounds import heard_distance, later, muffled, sample_distance, vowels
from jielong.apps.lab.statistics import Estimate, bootstrap, level, ranking, share
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.losses.adversarial import Adversarial, PatchAdversarialLoss
from jielong.losses.perceptual import Perceptual, PerceptualLoss, unit_distance
from jielong.media.images import from_tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES, SOUNDS, STEPS, BATCH = 160, 64, 160, 16
BLUR, CUTOFF = 1.5, 3000.0
"""Pixels (standard deviation) and hertz: damage that everybody sees and hears."""
KNOWN, FOOLED = 0.8, 0.6
"""A discriminator that ranks at least ``KNOWN`` of the pairs rightly can tell; one below ``FOOLED`` can not (chance is 0.5)."""
LATER = (0, 1, 2, 4, 8, 16, 32)

Distances = Mapping[str, Tensor]


def shifted(pictures: Tensor) -> Tensor:
    """One pixel to the right; the left edge stands twice."""
    return torch.cat([pictures[..., :1], pictures[..., :-1]], dim=-1)


def blurred(pictures: Tensor, sigma: float = BLUR) -> Tensor:
    """Gaussian blur of ``(B, C, H, W)``."""
    reach = int(3 * sigma + 0.5)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(pictures.shape[1], 1, 1)
    rows = F.conv2d(F.pad(pictures, (reach, reach, 0, 0), mode="replicate"), kernel[:, :, None], groups=pictures.shape[1])
    return F.conv2d(F.pad(rows, (0, 0, reach, reach), mode="replicate"), kernel[..., None], groups=pictures.shape[1])


@torch.no_grad()
def perceived(loss: PerceptualLoss, x: Tensor, y: Tensor) -> Tensor:
    """The perceptual loss of each pair of pictures, ``(B,)``."""
    stages = [loss.network.features(loss.prepare(pictures), max(loss.stages)) for pictures in (x, y)]
    return torch.stack(
        [
            sum(
                (w * unit_distance(*(each[s - 1][row : row + 1] for each in stages)) for s, w in loss.stages.items()),
                start=torch.zeros(()),
            )
            for row in range(len(x))
        ]
    )


def train_discriminator(images: MediaSet, steps: int, seed: int) -> nn.Module:
    """A discriminator that learned on the training split to tell pictures from their blurred copies.

    Args:
        images: What to learn from.
        steps: Updates of 16 pictures and 16 blurred ones.
        seed: Of weights and choices.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adversarial = PatchAdversarialLoss(Adversarial(channels=16, layers=2), images.medium.channels)
    optimizer = torch.optim.Adam(adversarial.parameters(), lr=1e-3, betas=(0.5, 0.9))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        real = images.media(torch.randint(len(images), (BATCH,), generator=generator).tolist())
        optimizer.zero_grad()
        adversarial.discriminator_loss(real, blurred(real))["total"].backward()
        optimizer.step()
    return adversarial.discriminator.eval().requires_grad_(False)


@torch.no_grad()
def realness(discriminator: nn.Module, pictures: Tensor) -> Tensor:
    """Mean logit of each picture's patches, ``(B,)``."""
    return torch.cat([discriminator(part).mean((1, 2, 3)) for part in pictures.split(64)])


def judge(regression: Distances, perception: Distances, logits: Distances, wave: Distances, ear: Distances, seed: int) -> list[Check]:
    """The bounds that the claim must keep.

    Args:
        regression: Squared difference of each picture to its ``shifted`` and ``blurred`` copy, ``(n,)`` each.
        perception: The same in perceptual distance.
        logits: The discriminator's opinion of the ``real``, ``shifted`` and ``blurred`` pictures.
        wave: Squared difference of each sound to its copy ``later`` by a sample, and ``muffled``.
        ear: The same in log-mel distance.
        seed: Of the resampling.
    """
    sure = level(6)

    def told(copies: str) -> Estimate:
        return bootstrap(torch.stack([logits["real"], logits[copies]], dim=1), seed, sure, statistic=ranking)

    return [
        Check(
            "regression calls a picture shifted by one pixel worse than a blurred one, for most pictures",
            share(regression["shifted"] > regression["blurred"], sure),
            "above",
            0.5,
        ),
        Check(
            "perception calls the blurred one worse, for most pictures",
            share(perception["shifted"] < perception["blurred"], sure),
            "above",
            0.5,
        ),
        Check("a discriminator tells blurred pictures from real ones", told("blurred"), "above", KNOWN),
        Check("and cannot tell shifted pictures from real ones", told("shifted"), "below", FOOLED),
        Check(
            "regression calls a voice that begins one sample later worse than a muffled one, for most voices",
            share(wave["later"] > wave["muffled"], sure),
            "above",
            0.5,
        ),
        Check("an ear (log-mel) calls the muffled one worse, for most voices", share(ear["later"] < ear["muffled"], sure), "above", 0.5),
    ]


class WhatIsAlike(Trial, name="what-is-alike"):
    """Shifted, blurred and foreign copies of pictures and sounds before three losses."""

    claim = (
        "Alike has several meanings: a copy shifted by a hair is far off by regression, which forgives blur, but near to perception and "
        "to a discriminator, which do not."
    )

    def run(self, bench: Bench) -> Outcome:
        """Measure the three losses on held-out pictures and synthetic voices."""
        images, heldout = (open_data("emoji", split=part) for part in ("train", "heldout"))
        real = heldout.media(spread(len(heldout), bench.scaled(PICTURES, 2)))
        copies = {"shifted": shifted(real), "blurred": blurred(real), "another": real.roll(1, 0)}
        regression = {name: (copy - real).square().mean((1, 2, 3)) for name, copy in copies.items()}
        bench.tell("asking EfficientNet-lite0")
        loss = PerceptualLoss(Perceptual())
        perception = {name: perceived(loss, copy, real) for name, copy in copies.items()}
        bench.tell("training a discriminator on blurred pictures")
        discriminator = train_discriminator(images, bench.scaled(STEPS), bench.seed)
        logits = {name: realness(discriminator, pictures) for name, pictures in {"real": real, **copies}.items()}
        bench.tell("listening to synthetic voices")
        voices = vowels(bench.scaled(SOUNDS, 2), torch.Generator().manual_seed(bench.seed))
        delayed = {count: later(voices, count) for count in LATER}
        versions = {"later": delayed[1], "muffled": muffled(voices, CUTOFF), "another": voices.roll(1, 0)}
        wave = {name: sample_distance(voices, copy) for name, copy in versions.items()}
        ear = {name: heard_distance(voices, copy) for name, copy in versions.items()}
        curves = {
            name: [float((distance(voices, copy) / against).mean()) for copy in delayed.values()]
            for name, distance, against in (
                ("regression", sample_distance, wave["another"].mean()),
                ("log-mel", heard_distance, ear["another"].mean()),
            )
        }

        def mean(values: Tensor, unit: str) -> Estimate:
            return bootstrap(values, bench.seed, unit=unit)

        figures = {f"regression, {name} picture": mean(each, "squared, of [-1, 1]") for name, each in regression.items()}
        figures |= {f"perception, {name} picture": mean(each, "lite0 distance") for name, each in perception.items()}
        figures |= {
            f"discriminator, real above {name} picture": bootstrap(
                torch.stack([logits["real"], logits[name]], 1), bench.seed, statistic=ranking
            )
            for name in copies
        }
        figures |= {f"regression, {name} voice": mean(each, "of the power") for name, each in wave.items()}
        figures |= {f"log-mel, {name} voice": mean(each, "squared nepers of power") for name, each in ear.items()}
        shown = spread(len(real), 1)[0]

        def draw(figure: Figure) -> None:
            _draw(figure, {"original": real[shown], **{name: copy[shown] for name, copy in copies.items()}}, figures, curves)

        return Outcome(
            judge(regression, perception, logits, wave, ear, bench.seed),
            figures,
            draw,
            (9.0, 5.6),
            {
                "pictures": {"set": heldout.name, "split": "heldout", "n": len(real), "data_sha256": heldout.fingerprint},
                "perception": Perceptual().model_dump(mode="json"),
                "discriminator": {
                    "steps": bench.scaled(STEPS),
                    "batch": BATCH,
                    "blur": BLUR,
                    "trained_on": "real and blurred, training split",
                },
                "voices": {"made_by": "jielong.apps.lab.sounds.vowels", "n": len(voices), "rate": 16_000, "cutoff_hz": CUTOFF},
            },
            ("another picture is as real as any, so a discriminator alone would take it for a copy: that is why losses are added up",),
        )


def _draw(figure: Figure, pictures: Mapping[str, Tensor], figures: Mapping[str, Estimate], curves: Mapping[str, Sequence[float]]) -> None:
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.5])
    for axes, (name, picture) in zip(above.subplots(1, len(pictures)), pictures.items(), strict=True):
        axes.imshow(from_tensor(picture), interpolation="nearest", cmap="gray")
        axes.set_title({"shifted": "shifted by a pixel", "another": "another picture"}.get(name, name))
        axes.axis("off")
    plots = below.subplots(1, 4, width_ratios=[1, 1, 1, 1.4])
    names = [name for name in pictures if name != "original"]
    for axes, loss, title in zip(
        plots,
        ("regression, {} picture", "perception, {} picture", "discriminator, real above {} picture"),
        ("regression", "perception (lite0)", "discriminator: told apart"),
        strict=False,
    ):
        bars = [figures[loss.format(name)] for name in names]
        error = [[bar.value - bar.low for bar in bars], [bar.high - bar.value for bar in bars]]
        axes.bar(names, [bar.value for bar in bars], yerr=error, color=["#2a7", "#c73", "#999"], capsize=3)
        axes.set_title(title)
        axes.tick_params(axis="x", rotation=30)
    for axes in plots[:2]:
        axes.set_yscale("log")
    plots[2].axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    plots[2].set_ylim(0, 1.05)
    for name, values in curves.items():
        plots[3].plot(range(len(LATER)), values, marker="o", markersize=3, label=name)
    plots[3].set_xticks(range(len(LATER)), [str(each) for each in LATER])
    plots[3].set_xlabel("samples later (16 kHz)")
    plots[3].set_title("a voice: distance / another voice's")
    plots[3].legend()
