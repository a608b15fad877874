"""Reconstruction from 32 1-D tokens against 64 tokens on a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.core.tokens import Tokens
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.reconstruction import psnr
from jielong.losses.perceptual import unit_distance
from jielong.media.images import sheet
from jielong.system import System, load
from jielong.training.checkpoint import fingerprint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE, GRID = "titok-faces", "vq-faces"
PICTURES, CHANGED = 192, 32
DECIBELS, DISTANCE = 1.0, 1.1
"""Bounds: PSNR difference in dB, and ratio of perceptual distances."""
EFFECT = 0.9
SHOWN = 8


@dataclass(frozen=True)
class Reconstructions:
    """Figures of each image's reconstruction.

    Attributes:
        psnr: Decibels, ``(n,)``.
        distance: Perceptual distance in EfficientNet-lite2 features, ``(n,)``.
        extent: Fraction of pixels affected by one token, ``(m,)``; see :func:`token_extent`.
        pictures: The first few reconstructions.
    """

    psnr: Tensor
    distance: Tensor
    extent: Tensor
    pictures: Tensor


@torch.no_grad()
def perceptual_distances(extractor: FeatureExtractor, x: Tensor, y: Tensor) -> Tensor:
    """Perceptual distance of each pair of images, ``(n,)``: EfficientNet-lite2, mean over its stages."""
    distances = []
    for ours, theirs in zip(x.split(32), y.split(32), strict=True):
        stages = [extractor.network.features(extractor.prepare(pictures)) for pictures in (ours, theirs)]
        for row in range(len(ours)):
            distances.append(
                torch.stack([unit_distance(*(part[row : row + 1] for part in pair)) for pair in zip(*stages, strict=True)]).mean()
            )
    return torch.stack(distances)


def token_extent(system: System, pictures: Tensor, seed: int) -> Tensor:
    """Smallest fraction of the pixels with 90% of the squared change that replacing one token causes.

    Args:
        system: System with the tokenizer.
        pictures: Images; one random token of each is replaced by a random token of the batch.
        seed: Seed of the replacements.

    Returns:
        ``(n,)``, between 0 and 1, without images that do not change.
    """
    tokens = system.encode(pictures)
    generator = torch.Generator().manual_seed(seed)
    batch, positions = tokens.values.shape[:2]
    where = torch.randint(positions, (batch,), generator=generator)
    other = tokens.values[torch.randint(batch, (batch,), generator=generator), torch.randint(positions, (batch,), generator=generator)]
    changed = tokens.values.clone()
    changed[torch.arange(batch), where] = other
    effect = (system.decode(Tokens(changed, tokens.layout)) - system.decode(tokens)).square().sum(1).flatten(1).double()
    effect = effect[effect.sum(1) > 0]
    total = effect.sort(1, descending=True).values.cumsum(1)
    return ((total < EFFECT * total[:, -1:]).sum(1) + 1) / effect.shape[1]


def reconstruct(system: System, pictures: Tensor, extractor: FeatureExtractor, seed: int) -> Reconstructions:
    """Encode and decode images."""
    rebuilt = torch.cat([system.decode(system.encode(part)) for part in pictures.split(64)])
    decibels = torch.tensor([psnr(back[None], real[None]).value for back, real in zip(rebuilt, pictures, strict=True)])
    distances = perceptual_distances(extractor, rebuilt, pictures)
    return Reconstructions(decibels, distances, token_extent(system, pictures[:CHANGED], seed), rebuilt[:SHOWN])


def judge(line: Reconstructions, grid: Reconstructions, seed: int) -> list[Check]:
    """Checks of the claim; both sides have the same images in the same order."""
    confidence = level(3)

    def ratio(pairs: Tensor) -> Tensor:
        return pairs[..., 0].mean(1) / pairs[..., 1].mean(1)

    return [
        Check(
            f"PSNR is at most {DECIBELS:g} dB below the grid's",
            bootstrap(line.psnr - grid.psnr, seed, confidence, "dB"),
            "above",
            -DECIBELS,
        ),
        Check(
            "perceptual distance is at most 10% above the grid's",
            bootstrap(torch.stack([line.distance, grid.distance], 1), seed, confidence, "of the grid's", ratio),
            "below",
            DISTANCE,
        ),
        Check(
            "changing a 1-D token affects more pixels than changing one of the grid",
            bootstrap(_difference(line.extent, grid.extent), seed, confidence, "of the pixels"),
            "above",
            0.0,
        ),
    ]


def _difference(line: Tensor, grid: Tensor) -> Tensor:
    count = min(len(line), len(grid))  # changes without effect are omitted on one side only
    return line[:count] - grid[:count]


class ThirtyTwoTokens(Trial, name="32-tokens"):
    """The shipped 1-D tokenizer against the shipped grid."""

    claim = "32 1-D tokens without spatial positions reconstruct an image as well as 64 tokens on a grid."
    needs = (LINE, GRID)

    def run(self, bench: Bench) -> Outcome:
        """Reconstruct held-out images with both."""
        systems = {name: load(name, "cpu") for name in (LINE, GRID)}
        heldout = open_data(systems[GRID].recipe.data.set, size=systems[GRID].tokenizer.media.size, split="heldout")
        pictures = heldout.media(spread(len(heldout), bench.scaled(PICTURES, 4)))
        extractor = FeatureExtractor()
        bench.log(f"reconstructing {len(pictures)} images with {LINE} and {GRID}")
        results = {name: reconstruct(system, pictures, extractor, bench.seed) for name, system in systems.items()}
        figures: dict[str, Estimate] = {}
        for name, each in results.items():
            layout = systems[name].tokenizer.layout
            figures |= {
                f"tokens, {name}": exact(layout.positions),
                f"bits, {name}": exact(layout.bits or 0.0, "bit"),
                f"PSNR, {name}": bootstrap(each.psnr, bench.seed, unit="dB"),
                f"perceptual distance, {name}": bootstrap(each.distance, bench.seed, unit="lite2 distance"),
                f"extent of a token, {name}": bootstrap(each.extent, bench.seed, unit="of the pixels"),
            }

        def draw(figure: Figure) -> None:
            _draw(figure, figures, {"original": pictures[:SHOWN], **{name: each.pictures for name, each in results.items()}})

        return Outcome(
            judge(results[LINE], results[GRID], bench.seed),
            figures,
            draw,
            (8.5, 4.6),
            {
                "models": {name: fingerprint(system.tokenizer) for name, system in systems.items()},
                "samples_seen": {name: system.recipe.train.samples for name, system in systems.items()},
                "pictures": {"set": heldout.name, "split": "heldout", "n": len(pictures), "data_sha256": heldout.fingerprint},
            },
            ("the models differ in training samples and in bits: see the figures",),
        )


def _draw(figure: Figure, figures: Mapping[str, Estimate], pictures: Mapping[str, Tensor]) -> None:
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.3, 1])
    for axes, (name, shown) in zip(above.subplots(len(pictures), 1), pictures.items(), strict=True):
        axes.imshow(sheet(shown, columns=len(shown), padding=1))
        axes.set_title(Path(name).name)
        axes.axis("off")
    names = [name for name in pictures if name != "original"]
    for axes, what in zip(below.subplots(1, 4), ("bits", "PSNR", "perceptual distance", "extent of a token"), strict=True):
        bars = [figures[f"{what}, {name}"] for name in names]
        error = [[bar.value - bar.low for bar in bars], [bar.high - bar.value for bar in bars]]
        axes.bar([Path(name).name for name in names], [bar.value for bar in bars], yerr=error, color=["#2a7", "#999"], capsize=3)
        axes.set_title(what)
        axes.tick_params(axis="x", rotation=20)
