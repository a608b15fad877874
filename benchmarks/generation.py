"""Seconds a picture: raster with the cache against the naive reference (and whether the tokens agree), and masked against raster.

    python benchmarks/generation.py                  # both tables
    python benchmarks/generation.py --quick          # a smoke run

Random weights draw as slowly as trained ones. Rounds of the sides are interleaved, so that a busy neighbour slows all alike; medians
are reported. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable

import torch
from timing import interleaved, machine

from jielong.backbones.transformer import Transformer
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.softmax import Softmax
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster


def make(order: str, tokens: int, arguments: argparse.Namespace) -> Generator:
    """A generator over a square grid, with weights that differ from their start: an untrained head would draw uniformly."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise SystemExit(f"--tokens takes square numbers, such as 64 or 256, not {tokens}")
    layout = Layout((side, side), vocabulary=arguments.vocabulary)
    torch.manual_seed(0)
    backbone = Transformer(layers=arguments.layers, width=arguments.width, heads=arguments.heads).build(layout, condition_width=None)
    part = Raster() if order == "raster" else Masked(steps=arguments.steps)
    model = Generator(layout, part.build(), backbone, Softmax().build(arguments.width, layout)).eval()
    torch.nn.init.normal_(model.head.logits.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    return model


def drawing(model: Generator, batch: int, cache: bool = True) -> Callable[[], Tokens]:
    return lambda: model.generate(count=batch, batch=batch, seed=0, cache=cache)


def against_naive(arguments: argparse.Namespace) -> dict[str, float | bool]:
    model = make("raster", arguments.naive_tokens, arguments)
    cached, naive = drawing(model, 1), drawing(model, 1, cache=False)
    equal = torch.equal(cached().values, naive().values)
    seconds = interleaved({"cached": cached, "naive": naive}, arguments.rounds)
    ratio = seconds["naive"] / seconds["cached"]
    print(f"\nraster, {arguments.naive_tokens} tokens, one picture")
    print(f"  with the cache    {seconds['cached']:8.3f} s")
    print(f"  naive reference   {seconds['naive']:8.3f} s   {ratio:.1f}x slower; tokens {'equal' if equal else 'DIFFER'}")
    return {"tokens": arguments.naive_tokens, "cached_s": seconds["cached"], "naive_s": seconds["naive"], "speedup": ratio, "equal": equal}


def masked_against_raster(arguments: argparse.Namespace) -> list[dict[str, float]]:
    print(f"\nseconds a picture: masked in {arguments.steps} steps, raster with the cache")
    print(f"  {'tokens':>6} {'batch':>6} {'masked':>9} {'raster':>9} {'speedup':>8}")
    rows = []
    for tokens in arguments.tokens:
        masked, raster = make("masked", tokens, arguments), make("raster", tokens, arguments)
        for batch in arguments.batches:
            seconds = interleaved({"masked": drawing(masked, batch), "raster": drawing(raster, batch)}, arguments.rounds)
            row = {name: value / batch for name, value in seconds.items()}
            ratio = row["raster"] / row["masked"]
            print(f"  {tokens:>6} {batch:>6} {row['masked']:>9.4f} {row['raster']:>9.4f} {ratio:>7.1f}x")
            rows.append({"tokens": tokens, "batch": batch, "masked_s": row["masked"], "raster_s": row["raster"], "speedup": ratio})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=8, help="of the masked order")
    parser.add_argument("--naive-tokens", type=int, default=256, help="of the comparison with the naive reference")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256], help="of the comparison of the orders")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.layers, arguments.width, arguments.heads, arguments.vocabulary, arguments.steps = 1, 16, 2, 32, 2
        arguments.naive_tokens, arguments.tokens, arguments.batches, arguments.rounds = 16, [16], [1], 1
    measured_on = machine(arguments.threads)
    print(f"{arguments.layers} layers, width {arguments.width}, {arguments.heads} heads, {arguments.vocabulary} codes; {measured_on}")
    naive = against_naive(arguments)
    orders = masked_against_raster(arguments)
    settings = {name: getattr(arguments, name) for name in ("layers", "width", "heads", "vocabulary", "steps", "rounds")}
    print(json.dumps({"machine": measured_on, "settings": settings, "raster_against_naive": naive, "masked_against_raster": orders}))


if __name__ == "__main__":
    main()
