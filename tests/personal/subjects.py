"""Tiny bases of random weights, and folders of pictures of a subject."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from jielong.config.recipe import parse
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.generation.generator import Generator
from jielong.media.kinds.image import image_medium
from jielong.system import DESCRIPTION, build_generator, build_tokenizer, describe
from jielong.training.checkpoint import save_checkpoint

SIDE = 8
MASKED = """
data: {set: emoji, size: 8}
tokenizer: {pixels: {levels: 4}}
condition: {text: {encoder: bytes, width: 16, length: 24}}
order: {masked: {steps: 2}}
backbone: {transformer: {layers: 2, width: 16, heads: 2}}
head: softmax
train: {samples: 8}
"""
RASTER = MASKED.replace("{masked: {steps: 2}}", "raster").replace("heads: 2", "heads: 2, condition: cross")
FLOW = """
data: {set: emoji, size: 8}
tokenizer: {patches: {patch: 4}}
condition: {text: {encoder: bytes, width: 16, length: 24}}
order: at_once
backbone: {none: {width: 16}}
head: {flow_matching: {network: {dit: {layers: 2, width: 16, heads: 2}}, steps: 3}}
train: {samples: 8}
"""


def checkpoint(folder: Path, text: str = MASKED, seed: int = 0) -> str:
    """A checkpoint of random weights; its folder."""
    recipe = parse(text)
    torch.manual_seed(seed)
    medium = image_medium(3, (SIDE, SIDE))
    tokenizer = build_tokenizer(recipe, medium).eval()
    generator = build_generator(recipe, tokenizer, [])
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    save_checkpoint(folder, generator, recipe.to_yaml())
    (folder / DESCRIPTION).write_text(json.dumps(describe(medium, [], tokenizer, generator)))
    return str(folder)


def pictures(folder: Path, count: int = 4) -> Path:
    """A folder of different pictures."""
    folder.mkdir(parents=True)
    for index in range(count):
        noise = torch.randint(0, 255, (SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
        Image.fromarray(noise.numpy()).save(folder / f"{index}.png")
    return folder


def loss_of(model: Generator, texts: list[str]) -> torch.Tensor:
    """The loss on two items of random tokens."""
    layout, generator = model.layout, torch.Generator().manual_seed(2)
    values = torch.randn(2, layout.positions, layout.channels, generator=generator)
    if layout.vocabulary is not None:
        values = torch.randint(0, layout.vocabulary, values.shape, generator=generator)
    assert model.condition is not None
    with torch.no_grad():
        return model.loss(Tokens(values, layout), model.condition.prepare(texts), PerSampleRNG(0, range(2)))
