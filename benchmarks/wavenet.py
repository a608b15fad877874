"""Drawing sound sample by sample: a WaveNet with its rings of past inputs against the naive reference, and whether the samples agree.

    python benchmarks/wavenet.py            # the recipe wavenet's network, a tenth of a second
    python benchmarks/wavenet.py --quick    # a smoke run

The naive reference passes everything up to the sample being drawn through the network again, so its time a sample grows with the length;
with rings it does not. Random weights draw as slowly as trained ones. Rounds of the two sides are interleaved, so that a busy neighbour
slows both; medians are reported. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from timing import interleaved, machine

from jielong.backbones.wavenet import WaveNet
from jielong.config.recipe import load
from jielong.core.tokens import Tokens
from jielong.generation.generator import Generator
from jielong.media.kinds.audio import AudioData, audio_medium
from jielong.orders.raster import Raster


def make(recipe_name: str, seconds: float) -> tuple[Generator, int]:
    """The recipe's generator without its condition, with a head that does not draw uniformly, and the rate in Hz."""
    recipe = load(recipe_name)
    if not isinstance(recipe.backbone, WaveNet) or recipe.head is None or not isinstance(recipe.data, AudioData):
        raise SystemExit(f"--recipe takes one of sound with a wavenet backbone, such as wavenet, not {recipe_name}")
    media = audio_medium(1, max(1, round(seconds * recipe.data.sample_rate)), recipe.data.sample_rate)
    layout = recipe.tokenizer.build(media).layout  # type: ignore[union-attr]
    torch.manual_seed(0)
    backbone = recipe.backbone.build(layout, condition_width=None)
    head = recipe.head.build(backbone.width, layout)  # type: ignore[attr-defined]
    model = Generator(layout, Raster().build(), backbone, head).eval()
    for parameter in head.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model, recipe.data.sample_rate


def drawing(model: Generator, batch: int, cache: bool) -> Callable[[], Tokens]:
    return lambda: model.generate(count=batch, batch=batch, seed=0, cache=cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="wavenet")
    parser.add_argument("--seconds", type=float, default=0.1, help="of sound to draw")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.batches, arguments.rounds = 0.001, [1], 1
    measured_on = machine(arguments.threads)
    model, rate = make(arguments.recipe, arguments.seconds)
    layout = model.layout
    numbers = sum(parameter.numel() for parameter in model.backbone.parameters())
    print(f"{arguments.recipe}: {layout.positions:,} samples at {rate:,} Hz, {numbers:,} numbers in the backbone; {measured_on}")
    print(f"  {'batch':>6} {'rings':>10} {'naive':>10} {'ratio':>8}   milliseconds a sample of one clip")
    rows = []
    for batch in arguments.batches:
        cached, naive = drawing(model, batch, cache=True), drawing(model, batch, cache=False)
        equal = torch.equal(cached().values, naive().values)
        seconds = interleaved({"cached": cached, "naive": naive}, arguments.rounds)
        ratio = seconds["naive"] / seconds["cached"]
        each = {name: 1000 * value / batch / layout.positions for name, value in seconds.items()}
        print(f"  {batch:>6} {each['cached']:>10.3f} {each['naive']:>10.3f} {ratio:>7.1f}x   samples {'equal' if equal else 'DIFFER'}")
        rows.append({"batch": batch, "cached_ms": each["cached"], "naive_ms": each["naive"], "speedup": ratio, "equal": equal})
    memory = model.backbone.cache_bytes(1, layout.positions)
    settings = {"recipe": arguments.recipe, "samples": layout.positions, "rounds": arguments.rounds, "cache_bytes_a_clip": memory}
    print(json.dumps({"machine": measured_on, "settings": settings, "rows": rows}))


if __name__ == "__main__":
    main()
