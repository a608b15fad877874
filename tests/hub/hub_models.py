"""Tiny checkpoints of random weights, and where the client of the Hub looks."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from jielong.config.recipe import parse
from jielong.media.kinds.image import image_medium
from jielong.system import DESCRIPTION, build_generator, build_tokenizer, copy_stages, describe, hub, load_stages, tokenizers_of
from jielong.training.checkpoint import save_checkpoint

VQ = """
data: {set: emoji, size: 8}
tokenizer: {vq: {autoencoder: {convolutional: {channels: [8], blocks: [1], patch: 4}}, dim: 4, quantizer: {vector: {codebook_size: 16}}}}
losses: {regression: {kind: l2}}
train: {samples: 8}
"""
GENERATOR = """
data: {set: emoji, size: 8}
tokenizer: {checkpoint: TOKENIZER}
order: {masked: {steps: 2}}
backbone: {transformer: {layers: 1, width: 16, heads: 2}}
head: softmax
train: {samples: 8}
"""
MEDIUM = image_medium(3, (8, 8))


def make_tokenizer(folder: Path) -> Path:
    """A tokenizer of random weights."""
    recipe = parse(VQ)
    torch.manual_seed(0)
    tokenizer = build_tokenizer(recipe, MEDIUM).eval()
    save_checkpoint(folder, tokenizer, recipe.to_yaml())
    (folder / DESCRIPTION).write_text(json.dumps(describe(MEDIUM, [], tokenizer, None)))
    return folder


def make_generator(folder: Path, tokenizer: str) -> Path:
    """A generator of random weights on the tokens of a checkpoint."""
    recipe = parse(GENERATOR.replace("TOKENIZER", tokenizer))
    stages = load_stages(recipe, MEDIUM)
    torch.manual_seed(1)
    built = build_tokenizer(recipe, MEDIUM, stages).eval()
    generator = build_generator(recipe, built, [], tokenizers_of(stages))
    save_checkpoint(folder, generator, recipe.to_yaml())
    (folder / DESCRIPTION).write_text(json.dumps(describe(MEDIUM, [], built, generator)))
    copy_stages(recipe, folder)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder, by their paths in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def point_at(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client, which reads its environment when it is imported, ask another Hub."""
    hub.fetch.cache_clear()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    huggingface_hub.utils.disable_progress_bars()
