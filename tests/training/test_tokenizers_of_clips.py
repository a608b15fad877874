"""Tokenizers of clips train on a folder of videos with every loss that they have, are measured, and share their codes with pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.config.recipe import parse
from jielong.config.registry import RecipeError
from jielong.data import open_data
from jielong.evaluation.evaluate import evaluate
from jielong.media.video import encode_video
from jielong.system import load
from jielong.training.experiment import run

SIDE, RATE = 16, 8.0
CAUSAL = "causal_3d: {patch: 2, channels: [8, 8, 8], strides: [[2, 2], [2, 1]]}"
TOKENIZERS = {
    "lookup_free": f"vq: {{autoencoder: {{{CAUSAL}}}, dim: 6, quantizer: {{lookup_free: {{bits: 6, joint_bits: 6}}}}}}",
    "kl": f"kl: {{autoencoder: {{{CAUSAL}}}, dim: 4, outliers: 0.01}}",
    "vector": (
        "vq: {autoencoder: {convolutional_3d: {strides: [2, 4, 4], width: 8, blocks: 1}}, dim: 4, quantizer: {vector: {codebook_size: 16}}}"
    ),
}
RECIPE = """
data: {{set: {set}, kind: video, size: {side}, frames: {frames}, frame_rate: 8}}
tokenizer: {{{tokenizer}}}
losses:
  regression: {{kind: l1}}
  perceptual: {{frames: 1, start_samples: 32, upscale: 2}}
  adversarial: {{weight: 0.1, start_samples: 32, channels: 4, layers: 1, frames: 2, clips: {{channels: 4, layers: 1}}}}
train: {{samples: 64, batch: 8, lr: 1.0e-2, warmup: 8, ema: 0.5, sample_every: 64, log_every: 8, precision: fp32}}
"""


def frames_of(tokenizer: str) -> int:
    return 8 if tokenizer == "vector" else 9


def recipe(folder: Path, tokenizer: str, frames: int | None = None) -> str:
    return RECIPE.format(set=folder, side=SIDE, frames=frames or frames_of(tokenizer), tokenizer=TOKENIZERS[tokenizer])


def moving(start: int, step: int) -> Tensor:
    """A bright bar that moves to one side, ``(3, 9, 16, 16)``."""
    clip = torch.zeros(3, 9, SIDE, SIDE, dtype=torch.uint8)
    for frame in range(9):
        clip[:, frame, :, (start + step * frame) % SIDE] = 255
    return clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for split, starts in (("train", range(12)), ("heldout", range(12, 16))):
        (root / split).mkdir()
        for start in starts:
            (root / split / f"{start}.webp").write_bytes(encode_video(moving(start, 1), RATE, ".webp"))
    return root


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_it_trains_and_is_measured(tokenizer: str, folder: Path, tmp_path: Path) -> None:
    run(parse(recipe(folder, tokenizer)), tmp_path / "run", device="cpu", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert "perceptual" not in lines[0]
    assert {"perceptual", "adversarial", "discriminator_loss"} <= set(lines[-1])
    assert lines[-1]["regression"] < 0.8 * lines[0]["regression"]
    system = load(str(tmp_path / "run"))
    grid = (4, 4, 4) if tokenizer == "vector" else (3, 4, 4)
    assert system.tokenizer.layout.grid == grid
    figures = evaluate(system).figures
    assert figures["psnr"].n == 4 * frames_of(tokenizer)
    assert ("codebook_usage" in figures) == (tokenizer != "kl")
    if tokenizer != "vector":
        clips = open_data(folder, "heldout", size=SIDE, frames=9, frame_rate=RATE).media([0, 1])
        picture, whole = system.encode(clips[:, :, :1]), system.encode(clips)
        torch.testing.assert_close(picture.values, whole.values[:, :16], atol=1e-5, rtol=0)


def test_frames_that_do_not_divide_are_refused_when_the_recipe_is_read(folder: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"the first of 8 frames stands alone, and 4 each follow, so choose 1 \+ 4 k frames, such as 5 or 9"
    ):
        parse(recipe(folder, "kl", 8))
    with pytest.raises(RecipeError, match="9 x 16 x 16 do not divide into tokens of 2 x 4 x 4: choose sizes that are multiples"):
        parse(recipe(folder, "vector", 9))
