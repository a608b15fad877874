"""Codes or vectors: how much of a picture comes back at the same number of bits, and how far each can go."""

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
"""Sizes of codebooks, and weights of the divergence, both from few bits to many."""
LESS, FURTHER = 0.5, 1.0
"""Decibels: how much less still counts as no less, and what counts as further."""
_RECIPE = """
data: {{set: {set}, size: 32}}
tokenizer:
  {tokenizer}
losses: {{regression: {{kind: l2, weight: 1.0}}}}
train: {{samples: 1000000000, batch: 32, optimizer: muon, lr: 5.0e-3, warmup: 512, ema: 0.98, log_every: 100000, save_every: 1000000}}
"""
_BODY = "autoencoder: {convolutional: {patch: 4, channels: [64], blocks: [1]}}, dim: 8"


def recipes() -> dict[str, str]:
    """Texts of all tokenizers by name: one network, 8 x 8 tokens, 8 numbers wide where they are cut."""
    quantizer = "quantizer: {{vector: {{codebook_size: {}, kmeans_iterations: 10, restart_below: 0.1}}}}"
    texts = {f"{codes} codes": f"vq: {{{_BODY}, {quantizer.format(codes)}}}" for codes in CODES}
    texts |= {f"vectors, weight {weight:g}": f"kl: {{{_BODY}, weight: {weight}}}" for weight in WEIGHTS}
    return {name: _RECIPE.format(set=SET, tokenizer=text) for name, text in texts.items()}


@dataclass(frozen=True)
class Kept:
    """What a tokenizer keeps of the same pictures.

    Attributes:
        bits: A picture's tokens. Of codes the logarithm of how many there might be. Of vectors the divergence of what is sent from the
            prior, in bits: what it takes to tell somebody who knows the prior a sample, and no fewer would do (arXiv 1312.6114's bound).
        psnr: Decibels of each picture, ``(n,)``, as rebuilt from what a generator learns to draw: codes, or samples of vectors.
        limit: Kernel distance of what came back from the pictures themselves: a generator over these tokens can come no nearer.
    """

    bits: float
    psnr: Tensor
    limit: float


@torch.no_grad()
def keep(system: System, pictures: Tensor, extractor: FeatureExtractor, seed: int) -> Kept:
    """Send pictures through a tokenizer and back."""
    tokenizer = system.tokenizer
    tokens = tokenizer.sample_cached(tokenizer.encode_to_cache(pictures), PerSampleRNG(seed, range(len(pictures))))
    rebuilt = system.decode(tokens)
    if isinstance(tokenizer, KLTokenizer):
        bits = float(tokenizer.posterior(pictures).kl().sum((1, 2)).mean()) / math.log(2)
    else:
        bits = tokenizer.layout.bits or 0.0
    decibels = torch.tensor([psnr(back[None], real[None]).value for back, real in zip(rebuilt, pictures, strict=True)])
    limit = kernel_distance(extractor.extract(rebuilt).values, extractor.extract(pictures).values)
    return Kept(bits, decibels, limit)


def at(bits: float, some: Sequence[Kept]) -> Tensor | None:
    """Decibels of each picture at a number of bits, in a straight line between the two nearest; ``None`` outside what was measured."""
    ordered = sorted(some, key=lambda each: each.bits)
    for low, high in pairwise(ordered):
        if low.bits <= bits <= high.bits:
            share = (bits - low.bits) / (high.bits - low.bits) if high.bits > low.bits else 0.0
            return torch.lerp(low.psnr.double(), high.psnr.double(), share)
    return None


def judge(codes: Sequence[Kept], vectors: Sequence[Kept], seed: int) -> list[Check]:
    """The bounds that the claim must keep; all sides hold the same pictures in the same places."""
    sure = level(2)
    compared = [(each, found) for each in codes if (found := at(each.bits, vectors)) is not None]
    if compared:
        difference = torch.stack([found - each.psnr for each, found in compared]).mean(0)
        no_less = bootstrap(difference, seed, sure, "dB")
    else:
        no_less = Estimate(math.nan, -math.inf, math.inf, "dB", 0, "no vectors of fewer bits, or none of more, than any codes")
    furthest = [max(some, key=lambda each: float(each.psnr.mean())) for some in (vectors, codes)]
    return [
        Check(f"PSNR of vectors at the bits of codes is no more than {LESS:g} dB below theirs", no_less, "above", -LESS),
        Check(
            f"the best vectors are {FURTHER:g} dB above the best codes",
            bootstrap(furthest[0].psnr - furthest[1].psnr, seed, sure, "dB"),
            "above",
            FURTHER,
        ),
    ]


class DiscreteOrContinuous(Trial, name="discrete-or-continuous"):
    """One network with codebooks of several sizes, and with vectors of several rates."""

    claim = (
        "Bit for bit, vectors keep no less of a picture than codes, and where more is to be kept they go further than any codebook that "
        "can be learned in the same time."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train all tokenizers for the same time, and send held-out pictures through them."""
        extractor, seconds = FeatureExtractor(), max(0.5, SECONDS * bench.budget)
        heldout = open_data(SET, size=32, split="heldout")
        pictures = heldout.media(spread(len(heldout), min(len(heldout), bench.scaled(PICTURES, 8))))
        kept: dict[str, Kept] = {}
        figures: dict[str, Estimate] = {}
        for name, text in recipes().items():
            system, summary = bench.train(name.replace(", ", " "), text, [f"train.seed={bench.seed}"], seconds=seconds)
            kept[name] = keep(system, pictures, extractor, bench.seed)
            figures |= {
                f"bits a picture, {name}": exact(kept[name].bits, "bit"),
                f"PSNR, {name}": bootstrap(kept[name].psnr, bench.seed, unit="dB"),
                f"limit of generation, {name}": exact(kept[name].limit, "kernel distance"),
                f"pictures seen, {name}": exact(summary.samples),
            }
        codes, vectors = ([kept[name] for name in kept if ("codes" in name) is coded] for coded in (True, False))

        def draw(figure: Figure) -> None:
            left, right = figure.subplots(1, 2)
            for label, some in (("codes", codes), ("vectors", vectors)):
                ordered = sorted(some, key=lambda each: each.bits)
                bits = [each.bits for each in ordered]
                left.plot(bits, [float(each.psnr.mean()) for each in ordered], "o-", label=label)
                right.plot(bits, [each.limit for each in ordered], "o-", label=label)
            left.set(xlabel="bits a picture", ylabel="PSNR, dB")
            right.set(xlabel="bits a picture", ylabel="distance of what comes back from the pictures")
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
                "equal budget: the same network, 64 positions, time of training, and bits, counted as Kept.bits says",
                "codes are charged for the whole codebook, used or not; vectors for what a sample of them tells, not for its digits",
                "one training of each: intervals are over pictures",
            ),
        )
