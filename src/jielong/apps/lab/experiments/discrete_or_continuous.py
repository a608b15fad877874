"""Reconstruction from codes and from continuous latents at equal bits, and the best of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.core.rng import PerSampleRNG
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.kernel import kernel_distance
from jielong.evaluation.reconstruction import psnr
from jielong.system import System
from jielong.tokenizers.kl import KLTokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SET, SECONDS, PICTURES = "emoji", 12.0, 128
CODES, WEIGHTS = (16, 256, 4096), (1.0, 0.2, 0.06, 0.02)
"""Codebook sizes and KL weights, from few bits to many."""
LESS, FURTHER = 0.5, 1.0
"""Bounds in dB of the difference at equal bits and of that between the best."""
_RECIPE = """
data: {{set: {set}, size: 32}}
tokenizer:
  {tokenizer}
losses: {{regression: {{kind: l2, weight: 1.0}}}}
train: {{samples: 1000000000, batch: 32, optimizer: muon, lr: 5.0e-3, warmup: 512, ema: 0.98, log_every: 100000, save_every: 1000000}}
"""
_BODY = "autoencoder: {convolutional: {patch: 4, channels: [64], blocks: [1]}}, dim: 8"


def recipes() -> dict[str, str]:
    """Recipes of all tokenizers by name: one network, 8 x 8 tokens of 8 channels."""
    quantizer = "quantizer: {{vector: {{codebook_size: {}, kmeans_iterations: 10, restart_below: 0.1}}}}"
    texts = {f"{codes} codes": f"vq: {{{_BODY}, {quantizer.format(codes)}}}" for codes in CODES}
    texts |= {f"vectors, weight {weight:g}": f"kl: {{{_BODY}, weight: {weight}}}" for weight in WEIGHTS}
    return {name: _RECIPE.format(set=SET, tokenizer=text) for name, text in texts.items()}


@dataclass(frozen=True)
class Reconstructions:
    """Figures of a tokenizer.

    Attributes:
        bits: Bits per image: ``log2`` of the number of code sequences, or the mean KL divergence of the posterior from the prior in bits,
            the rate at which samples can be transmitted (arXiv 1312.6114).
        psnr: PSNR in dB of each image, ``(n,)``, from codes or posterior samples.
        limit: Kernel distance of reconstructions from originals, a lower bound for a generator over these tokens.
    """

    bits: float
    psnr: Tensor
    limit: float


@torch.no_grad()
def reconstruct(system: System, pictures: Tensor, extractor: FeatureExtractor, seed: int) -> Reconstructions:
    """Encode and decode images."""
    tokenizer = system.tokenizer
    tokens = tokenizer.sample_cached(tokenizer.encode_to_cache(pictures), PerSampleRNG(seed, range(len(pictures))))
    rebuilt = system.decode(tokens)
    if isinstance(tokenizer, KLTokenizer):
        bits = float(tokenizer.posterior(pictures).kl().sum((1, 2)).mean()) / math.log(2)
    else:
        bits = tokenizer.layout.bits or 0.0
    decibels = torch.tensor([psnr(back[None], real[None]).value for back, real in zip(rebuilt, pictures, strict=True)])
    limit = kernel_distance(extractor.extract(rebuilt).values, extractor.extract(pictures).values)
    return Reconstructions(bits, decibels, limit)


def psnr_at(bits: float, some: Sequence[Reconstructions]) -> Tensor | None:
    """PSNR of each image at a number of bits, interpolated linearly; ``None`` outside the measured range."""
    ordered = sorted(some, key=lambda each: each.bits)
    for low, high in pairwise(ordered):
        if low.bits <= bits <= high.bits:
            share = (bits - low.bits) / (high.bits - low.bits) if high.bits > low.bits else 0.0
            return torch.lerp(low.psnr.double(), high.psnr.double(), share)
    return None


def judge(codes: Sequence[Reconstructions], vectors: Sequence[Reconstructions], seed: int) -> list[Check]:
    """Checks of the claim; all sides have the same images in the same order."""
    confidence = level(2)
    compared = [(each, found) for each in codes if (found := psnr_at(each.bits, vectors)) is not None]
    if compared:
        difference = torch.stack([found - each.psnr for each, found in compared]).mean(0)
        no_less = bootstrap(difference, seed, confidence, "dB")
    else:
        no_less = Estimate(math.nan, -math.inf, math.inf, "dB", 0, "no codes within the range of bits of the continuous latents")
    furthest = [max(some, key=lambda each: float(each.psnr.mean())) for some in (vectors, codes)]
    return [
        Check(f"at equal bits, PSNR of continuous latents is at most {LESS:g} dB below that of codes", no_less, "above", -LESS),
        Check(
            f"the best PSNR of continuous latents is {FURTHER:g} dB above the best of codes",
            bootstrap(furthest[0].psnr - furthest[1].psnr, seed, confidence, "dB"),
            "above",
            FURTHER,
        ),
    ]


class DiscreteOrContinuous(Trial, name="discrete-or-continuous"):
    """One network with codebooks of several sizes, and with KL weights of several sizes."""

    claim = (
        "At equal bits, continuous latents reconstruct no worse than codes, and with more bits better than any codebook trained for the "
        "same time."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train all tokenizers for the same time and reconstruct held-out images."""
        extractor, seconds = FeatureExtractor(), max(0.5, SECONDS * bench.budget)
        heldout = open_data(SET, size=32, split="heldout")
        pictures = heldout.media(spread(len(heldout), min(len(heldout), bench.scaled(PICTURES, 8))))
        results: dict[str, Reconstructions] = {}
        figures: dict[str, Estimate] = {}
        for name, text in recipes().items():
            system, summary = bench.train(name.replace(", ", " "), text, [f"train.seed={bench.seed}"], seconds=seconds)
            results[name] = reconstruct(system, pictures, extractor, bench.seed)
            figures |= {
                f"bits per image, {name}": exact(results[name].bits, "bit"),
                f"PSNR, {name}": bootstrap(results[name].psnr, bench.seed, unit="dB"),
                f"limit of generation, {name}": exact(results[name].limit, "kernel distance"),
                f"images seen, {name}": exact(summary.samples),
            }
        codes, vectors = ([results[name] for name in results if ("codes" in name) is coded] for coded in (True, False))

        def draw(figure: Figure) -> None:
            left, right = figure.subplots(1, 2)
            for label, some in (("codes", codes), ("vectors", vectors)):
                ordered = sorted(some, key=lambda each: each.bits)
                bits = [each.bits for each in ordered]
                left.plot(bits, [float(each.psnr.mean()) for each in ordered], "o-", label=label)
                right.plot(bits, [each.limit for each in ordered], "o-", label=label)
            left.set(xlabel="bits per image", ylabel="PSNR, dB")
            right.set(xlabel="bits per image", ylabel="kernel distance of reconstructions")
            left.legend()

        return Outcome(
            judge(codes, vectors, bench.seed),
            figures,
            draw,
            (8.5, 4.0),
            {
                "recipes": recipes(),
                "seconds": seconds,
                "pictures": {"set": heldout.name, "split": "heldout", "n": len(pictures), "data_sha256": heldout.fingerprint},
            },
            (
                "equal network, 64 positions and training time",
                "bits of codes: log2 of the codebook size, used or not; of continuous latents: KL divergence from the prior",
                "one training run per tokenizer: intervals are over images",
            ),
        )
