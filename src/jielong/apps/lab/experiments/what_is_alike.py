"""Regression, perceptual and adversarial losses on shifted, blurred and unrelated copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.apps.lab.sounds import delayed, log_mel_distance, muffled, sample_distance, vowels
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
"""Standard deviation of the blur in pixels, and cutoff of the low-pass filter in Hz."""
KNOWN, FOOLED = 0.8, 0.6
"""Bounds of the discriminator's AUC: above ``KNOWN`` it separates the classes, below ``FOOLED`` it does not (chance is 0.5)."""
DELAYS = (0, 1, 2, 4, 8, 16, 32)

Distances = Mapping[str, Tensor]


def shifted(pictures: Tensor) -> Tensor:
    """Shift by one pixel to the right, repeating the left edge."""
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
    """Perceptual loss of each pair of images, ``(B,)``."""
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
    """Train a discriminator to separate images from blurred ones.

    Args:
        images: Training set.
        steps: Updates of 16 images and 16 blurred ones.
        seed: Seed of weights and batches.
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
    """Mean logit of each image's patches, ``(B,)``."""
    return torch.cat([discriminator(part).mean((1, 2, 3)) for part in pictures.split(64)])


def judge(
    regression: Distances, perceptual: Distances, logits: Distances, waveform: Distances, log_mel: Distances, seed: int
) -> list[Check]:
    """Checks of the claim.

    Args:
        regression: Squared difference of each image and its ``shifted`` and ``blurred`` copies, ``(n,)`` each.
        perceptual: Perceptual distance of the same.
        logits: The discriminator's logits of the ``real``, ``shifted`` and ``blurred`` images.
        waveform: Squared difference of each clip and its copies ``delayed`` by one sample and ``muffled``.
        log_mel: Log-mel distance of the same.
        seed: Seed of the resampling.
    """
    confidence = level(6)

    def auc(copies: str) -> Estimate:
        return bootstrap(torch.stack([logits["real"], logits[copies]], dim=1), seed, confidence, statistic=ranking)

    return [
        Check(
            "regression: a shift by one pixel is farther than blur for most images",
            share(regression["shifted"] > regression["blurred"], confidence),
            "above",
            0.5,
        ),
        Check(
            "perceptual: blur is farther for most images",
            share(perceptual["shifted"] < perceptual["blurred"], confidence),
            "above",
            0.5,
        ),
        Check("discriminator: AUC of real against blurred images", auc("blurred"), "above", KNOWN),
        Check("discriminator: AUC of real against shifted images", auc("shifted"), "below", FOOLED),
        Check(
            "regression: a delay of one sample is farther than low-pass filtering for most clips",
            share(waveform["delayed"] > waveform["muffled"], confidence),
            "above",
            0.5,
        ),
        Check(
            "log-mel: low-pass filtering is farther for most clips",
            share(log_mel["delayed"] < log_mel["muffled"], confidence),
            "above",
            0.5,
        ),
    ]


class WhatIsAlike(Trial, name="what-is-alike"):
    """Three losses on altered and unrelated copies of images and sounds."""

    claim = "A shifted copy is far by regression and close by perceptual distance and a discriminator, and a blurred copy is the reverse."

    def run(self, bench: Bench) -> Outcome:
        """Measure the three losses on held-out images and synthetic vowels."""
        images, heldout = (open_data("emoji", split=part) for part in ("train", "heldout"))
        real = heldout.media(spread(len(heldout), bench.scaled(PICTURES, 2)))
        copies = {"shifted": shifted(real), "blurred": blurred(real), "another": real.roll(1, 0)}
        regression = {name: (copy - real).square().mean((1, 2, 3)) for name, copy in copies.items()}
        bench.log("computing EfficientNet-lite0 features")
        loss = PerceptualLoss(Perceptual())
        perceptual = {name: perceived(loss, copy, real) for name, copy in copies.items()}
        bench.log("training a discriminator on blurred images")
        discriminator = train_discriminator(images, bench.scaled(STEPS), bench.seed)
        logits = {name: realness(discriminator, pictures) for name, pictures in {"real": real, **copies}.items()}
        bench.log("comparing synthetic vowels")
        voices = vowels(bench.scaled(SOUNDS, 2), torch.Generator().manual_seed(bench.seed))
        delays = {count: delayed(voices, count) for count in DELAYS}
        versions = {"delayed": delays[1], "muffled": muffled(voices, CUTOFF), "another": voices.roll(1, 0)}
        waveform = {name: sample_distance(voices, copy) for name, copy in versions.items()}
        log_mel = {name: log_mel_distance(voices, copy) for name, copy in versions.items()}
        curves = {
            name: [float((distance(voices, copy) / against).mean()) for copy in delays.values()]
            for name, distance, against in (
                ("regression", sample_distance, waveform["another"].mean()),
                ("log-mel", log_mel_distance, log_mel["another"].mean()),
            )
        }

        def mean(values: Tensor, unit: str) -> Estimate:
            return bootstrap(values, bench.seed, unit=unit)

        figures = {f"regression, {name} image": mean(each, "squared, of [-1, 1]") for name, each in regression.items()}
        figures |= {f"perceptual, {name} image": mean(each, "lite0 distance") for name, each in perceptual.items()}
        figures |= {
            f"discriminator AUC, {name} image": bootstrap(torch.stack([logits["real"], logits[name]], 1), bench.seed, statistic=ranking)
            for name in copies
        }
        figures |= {f"regression, {name} clip": mean(each, "of the power") for name, each in waveform.items()}
        figures |= {f"log-mel, {name} clip": mean(each, "squared nepers of power") for name, each in log_mel.items()}
        shown = spread(len(real), 1)[0]

        def draw(figure: Figure) -> None:
            _draw(figure, {"original": real[shown], **{name: copy[shown] for name, copy in copies.items()}}, figures, curves)

        return Outcome(
            judge(regression, perceptual, logits, waveform, log_mel, bench.seed),
            figures,
            draw,
            (9.0, 5.6),
            {
                "pictures": {"set": heldout.name, "split": "heldout", "n": len(real), "data_sha256": heldout.fingerprint},
                "perceptual": Perceptual().model_dump(mode="json"),
                "discriminator": {
                    "steps": bench.scaled(STEPS),
                    "batch": BATCH,
                    "blur": BLUR,
                    "trained_on": "real and blurred, training split",
                },
                "voices": {"made_by": "jielong.apps.lab.sounds.vowels", "n": len(voices), "rate": 16_000, "cutoff_hz": CUTOFF},
            },
            ("an unrelated image is as realistic as any, so a discriminator alone does not measure reconstruction: losses are summed",),
        )


def _draw(figure: Figure, pictures: Mapping[str, Tensor], figures: Mapping[str, Estimate], curves: Mapping[str, Sequence[float]]) -> None:
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.5])
    for axes, (name, picture) in zip(above.subplots(1, len(pictures)), pictures.items(), strict=True):
        axes.imshow(from_tensor(picture), interpolation="nearest", cmap="gray")
        axes.set_title({"shifted": "shifted by a pixel", "another": "another image"}.get(name, name))
        axes.axis("off")
    plots = below.subplots(1, 4, width_ratios=[1, 1, 1, 1.4])
    names = [name for name in pictures if name != "original"]
    for axes, loss, title in zip(
        plots,
        ("regression, {} image", "perceptual, {} image", "discriminator AUC, {} image"),
        ("regression", "perceptual (lite0)", "discriminator: AUC"),
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
        plots[3].plot(range(len(DELAYS)), values, marker="o", markersize=3, label=name)
    plots[3].set_xticks(range(len(DELAYS)), [str(each) for each in DELAYS])
    plots[3].set_xlabel("delay in samples (16 kHz)")
    plots[3].set_title("distance relative to another clip's")
    plots[3].legend()
