"""Seconds a clip frame by frame: the cache against the naive reference, which computes everything at every step, and each frame's time.

    python benchmarks/frames.py                      # both tables, with frames masked and at once
    python benchmarks/frames.py --inside raster      # token by token within a frame, which takes minutes without a cache
    python benchmarks/frames.py --quick              # a smoke run

Random weights draw as slowly as trained ones. Rounds of the sides are interleaved, so that a busy neighbour slows all alike; medians
are reported. The time of a frame runs from the last step of the frame before to its own, with the clean pass between them; without a window
it grows with the frames before it, and with one it is flat. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from types import SimpleNamespace
from typing import cast

import torch
from timing import interleaved, machine

from jielong.backbones.transformer import Transformer
from jielong.core.tokens import Layout
from jielong.generation.callbacks import StepEvent
from jielong.generation.generator import Generator
from jielong.heads.flow_matching import FlowMatching
from jielong.networks.denoiser import MLP
from jielong.networks.dit import DiT
from jielong.orders.at_once import AtOnce
from jielong.orders.base import OrderSettings
from jielong.orders.frames import Frames
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster
from jielong.tokenizers.base import Tokenizer

INSIDE = ("masked", "raster", "at_once")


def inside_of(name: str, steps: int) -> OrderSettings:
    """The order inside a frame."""
    return {"masked": Masked(choose="random", steps=steps), "raster": Raster(), "at_once": AtOnce()}[name]


def make(name: str, arguments: argparse.Namespace) -> Generator:
    """A generator of continuous tokens, with weights that differ from their start."""
    layout = Layout((arguments.frames, arguments.side, arguments.side), channels=arguments.channels)
    torch.manual_seed(0)
    order = Frames(inside=inside_of(name, arguments.steps)).build()
    network = DiT(layers=2, width=arguments.width, heads=arguments.heads) if name == "at_once" else MLP(width=arguments.width)
    head = FlowMatching(network=network, steps=arguments.head_steps).build(arguments.width, layout)
    backbone = Transformer(layers=arguments.layers, width=arguments.width, heads=arguments.heads).build(layout, None)
    embedding = order.embedding(cast("Tokenizer", SimpleNamespace(layout=layout)), arguments.width)
    model = Generator(layout, order, backbone, head, None, embedding).eval()
    torch.nn.init.normal_(model.head.network.output.weight, std=0.05)  # type: ignore[union-attr, arg-type]
    return model


def against_naive(name: str, model: Generator, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds a clip with the cache and without, and the greatest difference of their tokens."""
    cached, naive = (lambda cache=cache: model.generate(count=1, seed=0, cache=cache) for cache in (True, False))
    difference = float((cached().values - naive().values).abs().max())
    seconds = interleaved({"cached": cached, "naive": naive}, arguments.rounds)
    ratio = seconds["naive"] / seconds["cached"]
    print(f"  {name:<8} {seconds['cached']:>9.3f} {seconds['naive']:>9.3f} {ratio:>8.1f}x {difference:>12.1e}")
    return {"cached_s": seconds["cached"], "naive_s": seconds["naive"], "speedup": ratio, "difference": difference}


def frame_times(model: Generator, frames: int, window: int | None, rounds: int) -> list[float]:
    """Median seconds of each frame of a clip: up to its last step, from that of the frame before."""
    size, each = model.layout.positions // model.layout.grid[0], list[list[float]]()
    for _ in range(rounds):
        ends, started = list[float](), time.perf_counter()

        def note(event: StepEvent, ends: list[float] = ends) -> None:
            while len(ends) < frames and bool(event.known[:, : (len(ends) + 1) * size].all()):
                ends.append(time.perf_counter())

        model.generate(count=1, seed=0, frames=frames, window=window, on_step=note)
        each.append([end - begin for begin, end in zip([started, *ends[:-1]], ends, strict=True)])
    return [statistics.median(times) for times in zip(*each, strict=True)]


def by_length(name: str, model: Generator, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds a frame along twice the trained clip, with a window of the trained length; printed by quarters."""
    length = 2 * arguments.frames
    found = {"window": frame_times(model, length, arguments.frames, arguments.rounds)}
    found["none"] = frame_times(model, length, length, arguments.rounds)
    quarter = max(1, length // 4)
    for what, times in found.items():
        parts = [statistics.median(times[at : at + quarter]) for at in range(0, length - quarter + 1, quarter)]
        print(f"  {name:<8} {what:<7}" + "".join(f"{part:>9.4f}" for part in parts))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=8, help="rows and columns of a frame of tokens")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8, help="of a masked frame")
    parser.add_argument("--head-steps", type=int, default=8, help="evaluations of the head's network a draw")
    parser.add_argument("--inside", nargs="+", choices=INSIDE, default=["masked", "at_once"], help="raster takes minutes without a cache")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.frames, arguments.side, arguments.channels, arguments.layers, arguments.width, arguments.heads = 2, 2, 2, 1, 12, 2
        arguments.steps, arguments.head_steps, arguments.rounds, arguments.inside = 2, 2, 1, list(INSIDE)
    measured_on = machine(arguments.threads)
    size = f"{arguments.frames} frames of {arguments.side} x {arguments.side} tokens"
    where = ", ".join(f"{name} {value}" for name, value in measured_on.items())
    print(f"{size}, {arguments.layers} layers of width {arguments.width}; {where}")
    models = {name: make(name, arguments) for name in arguments.inside}
    print(f"\nseconds a clip\n  {'inside':<8} {'cached':>9} {'naive':>9} {'speedup':>9} {'difference':>12}")
    naive = {name: against_naive(name, model, arguments) for name, model in models.items()}
    print(f"\nseconds a frame of {2 * arguments.frames}, medians of quarters, with a window of {arguments.frames} frames and with none")
    frames = {name: by_length(name, model, arguments) for name, model in models.items()}
    settings = {name: getattr(arguments, name) for name in ("frames", "side", "channels", "layers", "width", "steps", "head_steps")}
    print(json.dumps({"machine": measured_on, "settings": settings, "against_naive": naive, "seconds_a_frame": frames}))


if __name__ == "__main__":
    main()
