"""Tokens that span time against tokens of each frame, at equal bits a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.moving import moving_digits, write_clips, write_pictures
from jielong.apps.lab.statistics import Estimate, exact, level, student
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.core.tokens import Tokens
from jielong.data.moving_digits import RATE
from jielong.evaluation.reconstruction import psnr
from jielong.evaluation.usage import codebook_usage
from jielong.evaluation.videos import frames_of
from jielong.media.videos import Videos
from jielong.system import System

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS, SEEDS, TRAINING_CLIPS, CLIPS = 8.0, 4, 400, 64
SIZE, FRAMES = 32, 9
BITS = 1152
"""Of a clip, for all tokenizers."""
IN_USE = 0.9
"""Bound: share of the codes of tokens over time that held-out clips use."""
OVER_TIME = "tokens over time"
_CLIPS = f"{{set: set by the experiment, size: {SIZE}, frames: {FRAMES}, frame_rate: {RATE:g}}}"
_PICTURES = f"{{set: set by the experiment, size: {SIZE}}}"
_RECIPE = """
data: {data}
tokenizer:
  vq:
    autoencoder: {autoencoder}
    dim: 8
    quantizer: {{vector: {{codebook_size: {codes}, kmeans_iterations: 10, restart_below: 0.1, decay: 0.95}}}}
losses: {{regression: {{kind: l2, weight: 1.0}}}}
train:
  {{samples: 1000000000, batch: {batch}, optimizer: muon, lr: 5.0e-3, warmup: {warmup}, ema: 0.98, log_every: 100000,
  sample_every: 1000000000, save_every: 1000000000}}
"""


@dataclass(frozen=True)
class Variant:
    """A tokenizer of clips, or of their frames.

    Attributes:
        recipe: Text of its recipe.
        over_time: Whether it reads clips.
    """

    recipe: str
    over_time: bool


def _over_time(autoencoder: str, codes: int, batch: int) -> Variant:
    return Variant(_RECIPE.format(data=_CLIPS, autoencoder=autoencoder, codes=codes, batch=batch, warmup=16 * batch), True)


def _of_frames(autoencoder: str, codes: int, batch: int) -> Variant:
    return Variant(_RECIPE.format(data=_PICTURES, autoencoder=autoencoder, codes=codes, batch=batch, warmup=16 * batch), False)


VARIANTS: Mapping[str, Variant] = {
    OVER_TIME: _over_time("{causal_3d: {patch: 4, channels: [32, 48, 64], blocks: [0, 1, 1], strides: [[2, 1], [2, 1]]}}", 64, batch=8),
    "frames, coarser grid": _of_frames("{convolutional: {patch: 4, channels: [48, 64], blocks: [1, 1]}}", 256, batch=32),
    "frames, fewer codes": _of_frames("{convolutional: {patch: 4, channels: [64], blocks: [2]}}", 4, batch=32),
}
"""3 x 8 x 8 tokens of 6 bits a clip, the first frame alone and then four frames each; or 9 frames of 4 x 4 tokens of 8 bits, or of 8 x 8
tokens of 2 bits."""


@dataclass(frozen=True)
class Run:
    """Figures of a tokenizer with one seed.

    Attributes:
        psnr: In dB, mean over the frames of held-out clips.
        usage: Share of codes in use.
        rebuilt: The clips, decoded.
    """

    psnr: float
    usage: float
    rebuilt: Tensor


@torch.no_grad()
def reconstruct(system: System, variant: Variant, clips: Tensor) -> tuple[Run, float]:
    """Encode and decode clips ``(n, 1, T, H, W)``; also returns the bits of a clip."""
    media = clips if variant.over_time else frames_of(clips)
    tokens = system.encode(media)
    rebuilt = system.decode(tokens)
    if not variant.over_time:
        rebuilt = rebuilt.unflatten(0, (len(clips), -1)).transpose(1, 2)
    quality = psnr(frames_of(rebuilt), frames_of(clips)).value
    bits = (tokens.layout.bits or 0.0) * len(tokens) / len(clips)
    return Run(quality, codebook_usage(Tokens(tokens.values, tokens.layout)).value, rebuilt), bits


def judge(runs: Mapping[str, Sequence[Run]]) -> list[Check]:
    """Checks of the claim, over runs with different seeds, paired by seed."""
    others, ours = [name for name in runs if name != OVER_TIME], runs[OVER_TIME]
    confidence = level(1 + len(others))
    return [
        *(
            Check(
                f"{OVER_TIME}: higher PSNR than {name} at equal bits",
                student([one.psnr - two.psnr for one, two in zip(ours, runs[name], strict=True)], confidence, "dB"),
                "above",
                0.0,
            )
            for name in others
        ),
        Check(f"{OVER_TIME}: codes in use", student([run.usage for run in ours], confidence), "above", IN_USE),
    ]


class TokensSpanTime(Trial, name="tokens-span-time"):
    """A causal 3-D tokenizer with a stride of four frames, and two tokenizers of pictures, from four seeds each.

    Tokens over space and time are those of VideoGPT (arXiv 2104.10157) and MAGVIT-v2 (arXiv 2310.05737).
    """

    claim = (
        "At equal bits a clip and equal training time, tokens that span four frames reconstruct clips better than tokens of each frame, "
        "whether these save bits by a coarser grid or by fewer codes, and use their codebook."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train each tokenizer with each seed, and reconstruct held-out clips."""
        train = moving_digits(bench.scaled(TRAINING_CLIPS, 24), "train", SIZE, FRAMES)
        sets = {True: write_clips(bench.folder / "clips.parquet", train), False: write_pictures(bench.folder / "frames.parquet", train)}
        clips = moving_digits(bench.scaled(CLIPS, 4), "heldout", SIZE, FRAMES)
        seeds = range(bench.seed, bench.seed + bench.scaled(SEEDS))
        runs: dict[str, list[Run]] = {name: [] for name in VARIANTS}
        figures: dict[str, Estimate] = {}
        for seed in seeds:
            for index, (name, variant) in enumerate(VARIANTS.items()):
                run, bits, seen = _trained(bench, f"variant-{index}-seed-{seed}", variant, sets[variant.over_time], seed, clips)
                runs[name].append(run)
                figures |= {f"bits per clip, {name}": exact(bits, "bit"), f"frames seen, {name}, seed {seed}": exact(seen)}
        for name, some in runs.items():
            figures |= {f"PSNR, {name}": student([run.psnr for run in some], unit="dB")}
            figures |= {f"codes in use, {name}": student([run.usage for run in some])}

        def draw(figure: Figure) -> None:
            _draw(figure, clips, runs)

        return Outcome(
            judge(runs),
            figures,
            draw,
            (9.0, 6.0),
            {
                "recipes": {name: variant.recipe for name, variant in VARIANTS.items()},
                "data": f"the first {len(train):,} clips of digits, {FRAMES} frames of {SIZE} x {SIZE}",
                "reconstructed": len(clips),
                "seconds": max(1.0, SECONDS * bench.budget),
                "seeds": list(seeds),
            },
            ("equal wall time of training; a tokenizer of frames reads each frame as a picture",),
        )


def _trained(bench: Bench, name: str, variant: Variant, data: Path, seed: int, clips: Tensor) -> tuple[Run, float, int]:
    """A run, its bits a clip, and the frames that it saw in training."""
    changes, seconds = (f"data.set={data}", f"train.seed={seed}"), max(1.0, SECONDS * bench.budget)
    system, summary = bench.train(name, variant.recipe, changes, seconds=seconds)
    run, bits = reconstruct(system, variant, clips)
    return run, bits, summary.samples * (FRAMES if variant.over_time else 1)


def _draw(figure: Figure, clips: Tensor, runs: Mapping[str, Sequence[Run]]) -> None:
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.5, 1])
    shown = {"held-out clip": clips[:1], **{name: some[0].rebuilt[:1] for name, some in runs.items()}}
    for axes, (name, clip) in zip(above.subplots(len(shown), 1), shown.items(), strict=True):
        axes.imshow(Videos(clip, RATE).sheet(scale=2), interpolation="nearest")
        axes.set_title(name, fontsize=9)
        axes.axis("off")
    left, right = below.subplots(1, 2, sharey=True)
    names = list(runs)[::-1]
    values = {"PSNR, dB": lambda run: run.psnr, "share of codes in use": lambda run: run.usage}
    for axes, (title, value) in zip((left, right), values.items(), strict=True):
        each = [[value(run) for run in runs[name]] for name in names]
        axes.barh(
            names, [sum(some) / len(some) for some in each], color=["#2a7" if name == OVER_TIME else "#999" for name in names], alpha=0.7
        )
        for place, some in enumerate(each):
            axes.plot(some, [place] * len(some), "k.", markersize=4)
        axes.set_title(f"{title}, {BITS:,} bits a clip", fontsize=9)
