"""Drawing pictures pixel by pixel: a PixelCNN with its cache of a few rows against the naive reference, and whether the pixels agree.

    python benchmarks/pixelcnn.py                                   # the recipe pixelcnn: 28 x 28, 256 greys
    python benchmarks/pixelcnn.py --recipe pixelcnn-emoji           # red, green and blue in turn
    python benchmarks/pixelcnn.py --quick                           # a smoke run

The naive reference passes all rows down to the pixel being drawn through the network again (not those below, which public code passes too).
Random weights draw as slowly as trained ones. Rounds of the two sides are interleaved, so that a busy neighbour slows both; medians are
reported. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from timing import interleaved, machine

from jielong.backbones.pixelcnn import PixelCNN
from jielong.config.data import settings_kind
from jielong.config.recipe import load
from jielong.core.tokens import Tokens
from jielong.generation.generator import Generator
from jielong.media.kinds.image import image_medium
from jielong.orders.raster import Raster


def make(arguments: argparse.Namespace) -> Generator:
    """The recipe's generator without its condition, with weights that differ from their start: an untrained head would draw uniformly."""
    recipe = load(arguments.recipe)
    if not isinstance(recipe.backbone, PixelCNN) or recipe.head is None:
        raise SystemExit(f"--recipe takes one with a pixelcnn backbone, such as pixelcnn or pixelcnn-emoji, not {arguments.recipe}")
    medium = settings_kind(recipe.data).medium(recipe.data, 1 if recipe.data.set == "fashion-mnist" else 3)
    media = image_medium(medium.channels, (arguments.side, arguments.side)) if arguments.side else medium
    layout = recipe.tokenizer.build(media).layout  # type: ignore[union-attr]
    torch.manual_seed(0)
    backbone = recipe.backbone.build(layout, condition_width=None)
    head = recipe.head.build(backbone.width, layout)  # type: ignore[attr-defined]
    model = Generator(layout, Raster().build(), backbone, head).eval()
    for parameter in head.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def drawing(model: Generator, batch: int, cache: bool) -> Callable[[], Tokens]:
    return lambda: model.generate(count=batch, batch=batch, seed=0, cache=cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="pixelcnn")
    parser.add_argument("--side", type=int, default=None, help="of the picture; the recipe's by default")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.side, arguments.batches, arguments.rounds = 2, [1], 1
    measured_on = machine(arguments.threads)
    model = make(arguments)
    layout = model.layout
    numbers = sum(parameter.numel() for parameter in model.backbone.parameters())
    print(f"{arguments.recipe}: grid {layout.grid}, {layout.vocabulary} levels, {numbers:,} numbers in the backbone; {measured_on}")
    print(f"  {'batch':>6} {'cached':>10} {'naive':>10} {'ratio':>8}   seconds a picture")
    rows = []
    for batch in arguments.batches:
        cached, naive = drawing(model, batch, cache=True), drawing(model, batch, cache=False)
        equal = torch.equal(cached().values, naive().values)
        seconds = interleaved({"cached": cached, "naive": naive}, arguments.rounds)
        ratio = seconds["naive"] / seconds["cached"]
        each = {name: value / batch for name, value in seconds.items()}
        print(f"  {batch:>6} {each['cached']:>10.4f} {each['naive']:>10.4f} {ratio:>7.1f}x   pixels {'equal' if equal else 'DIFFER'}")
        rows.append({"batch": batch, "cached_s": each["cached"], "naive_s": each["naive"], "speedup": ratio, "equal": equal})
    memory = model.backbone.cache_bytes(1, layout.positions)
    settings = {"recipe": arguments.recipe, "grid": list(layout.grid), "rounds": arguments.rounds, "cache_bytes_a_picture": memory}
    print(json.dumps({"machine": measured_on, "settings": settings, "rows": rows}))


if __name__ == "__main__":
    main()
