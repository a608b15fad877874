"""Masked drawing of continuous tokens: the naive schedule against every speed option alone, and against all of them together.

    python benchmarks/mar.py                                          # random weights, 256 tokens of 16 numbers
    python benchmarks/mar.py --checkpoint runs/mar-emoji --count 256  # trained ones, and Frechet distances to held-out pictures
    python benchmarks/mar.py --quick                                  # a smoke run

The naive schedule is MAR's own: 64 iterations of the whole trunk, and 100 evaluations of the head a token, both doubled by guidance.
All rows use the same weights and random numbers. Random weights draw as slowly as trained ones, but tell nothing about quality: whether an
option may be used is for the distance to say, and those of other counts of pictures do not compare. Rounds of all rows are interleaved, so
that a busy neighbour slows all alike; medians are reported. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Callable
from typing import Any

import torch
from timing import interleaved

from jielong.backbones.mar import Mar
from jielong.conditions.classes import Class
from jielong.generator import Generator
from jielong.guidance import Guidance
from jielong.heads.base import Sharpness
from jielong.heads.diffusion import Diffusion
from jielong.networks.denoiser import MLP
from jielong.orders.masked import Masked
from jielong.orders.ratio import Ratio
from jielong.speed import Lazy, TwoStage
from jielong.tokens import Layout, Tokens

NAIVE = "naive"
EVERYWHERE = "naive, head everywhere"


def make(arguments: argparse.Namespace) -> Generator:
    """MAR over a square grid, with weights that differ from their start."""
    side = math.isqrt(arguments.tokens)
    if side * side != arguments.tokens:
        raise SystemExit(f"--tokens takes square numbers, such as 64 or 256, not {arguments.tokens}")
    layout = Layout((side, side), channels=16)
    torch.manual_seed(0)
    half = arguments.layers // 2
    backbone = Mar(
        encoder_layers=half, decoder_layers=arguments.layers - half, width=arguments.width, heads=4, buffer=arguments.tokens // 4
    )
    head = Diffusion(network=MLP(layers=3, width=arguments.width))
    order = Masked(choose="random", ratio=Ratio(kind="truncated_normal"))
    model = Generator(
        layout, order.build(), backbone.build(layout, 64), head.build(arguments.width, layout), Class(width=64).build(["one", "two"])
    ).eval()
    for parameter in model.head.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def ways(arguments: argparse.Namespace, iterative: bool) -> dict[str, dict[str, Any]]:
    """What each row asks of ``generate``: one option more than the naive one, and all of them."""
    iterations, head_steps, late = arguments.iterations, arguments.head_steps, max(1, arguments.head_steps // 10)
    own = {"head_steps": head_steps} if iterative else {}
    few = max(1, iterations // 4)
    details = max(1, few // 8)
    lazy = Lazy()
    guided = Guidance(scale=arguments.guidance, kind="linear")
    naive = {"steps": iterations, "guidance": guided, "sharpness": Sharpness(**own)}
    made: dict[str, dict[str, Any]] = {NAIVE: naive}
    if arguments.everywhere:
        made[EVERYWHERE] = naive | {"cache": False}
    if iterative:
        made["half the head's evaluations"] = naive | {"sharpness": Sharpness(head_steps=max(1, head_steps // 2))}
        disa = Sharpness(head_steps=max(1, head_steps // 2), late_head_steps=late)
        made[f"fewer as tokens are known (DiSA), to {late}"] = naive | {"sharpness": disa}
    else:
        disa = Sharpness()
    made[f"{few} iterations"] = naive | {"steps": few}
    made[f"{few} iterations, the last {details} for details (GtR)"] = naive | {"steps": few, "two_stage": TwoStage(detail_steps=details)}
    made["lazy steps (LazyMAR)"] = naive | {"lazy": lazy}
    made["guided until four fifths are known"] = naive | {"guidance": Guidance(scale=arguments.guidance, kind="interval", stop=0.8)}
    made["all but the interval"] = naive | {
        "steps": few,
        "two_stage": TwoStage(detail_steps=details),
        "lazy": lazy,
        "sharpness": disa,
    }
    return made


def drawing(model: Generator, conditions: list[Any] | None, count: int, options: dict[str, Any]) -> Callable[[], Tokens]:
    options = options if conditions is not None else options | {"guidance": 1.0}
    return lambda: model.generate(conditions, count if conditions is None else None, batch=count, seed=0, **options)


def distances(system: Any, rows: dict[str, dict[str, Any]], count: int) -> dict[str, float]:
    """Frechet distance of each row's pictures to held-out ones, one a caption or class."""
    from jielong.comparison.measuring import heldout
    from jielong.data.order import spread
    from jielong.evaluation.features import FeatureExtractor
    from jielong.evaluation.frechet import frechet

    images, kind = heldout(system, None), system.condition_kind
    places = spread(len(images), min(count, len(images)))
    extractor = FeatureExtractor()
    real = extractor.extract(images.images(places))
    conditions = None if kind is None else [(images.captions if kind == "text" else images.labels)[place] for place in places]
    made = {}
    for name, options in rows.items():
        options = options if conditions is not None else options | {"guidance": 1.0}
        tokens = system.generator.generate(conditions, None if conditions is not None else len(places), seed=0, **options)
        made[name] = frechet(system.decode(tokens), real, extractor).value
    return made


def trunk_passes(model: Generator, run: Callable[[], Tokens]) -> int:
    """Calls of the backbone."""
    calls = []
    handle = model.backbone.register_forward_hook(lambda module, arguments, result: calls.append(len(result)))
    run()
    handle.remove()
    return len(calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=None, help="a generator of masked order over continuous tokens; random weights by default")
    parser.add_argument("--count", type=int, default=64, help="pictures of the Frechet distances, with --checkpoint")
    parser.add_argument("--tokens", type=int, default=256, help="of random weights")
    parser.add_argument("--layers", type=int, default=6, help="of random weights, half of them the encoder's")
    parser.add_argument("--width", type=int, default=256, help="of random weights")
    parser.add_argument("--iterations", type=int, default=64, help="of the naive schedule")
    parser.add_argument("--head-steps", type=int, default=100, help="of the naive schedule")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=1, help="pictures at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch; all by default")
    parser.add_argument("--everywhere", action="store_true", help="also the reference that draws at every position in every iteration")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.tokens, arguments.layers, arguments.width, arguments.rounds = 16, 2, 16, 1
        arguments.iterations, arguments.head_steps, arguments.count, arguments.everywhere = 8, 6, 4, True
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    system = None
    if arguments.checkpoint is not None:
        from jielong.system import load

        system = load(arguments.checkpoint)
        if system.generator is None or system.tokenizer.layout.discrete:
            raise SystemExit(
                f"--checkpoint takes a generator of continuous tokens, such as one of the recipe mar, not {arguments.checkpoint}"
            )
    model = make(arguments) if system is None or system.generator is None else system.generator
    conditions: list[Any] | None = None
    if model.condition is not None:
        kind = "class" if system is None else system.condition_kind
        conditions = (["red heart"] if kind == "text" else [0]) * arguments.batch
    rows = ways(arguments, model.head.iterative)
    runs = {name: drawing(model, conditions, arguments.batch, options) for name, options in rows.items()}
    numbers = sum(parameter.numel() for parameter in model.parameters())
    layout = model.layout
    print(f"{layout.positions} tokens of {layout.channels}, {numbers:,} numbers, {arguments.batch} at once; {machine}")
    if arguments.everywhere:
        apart = float((runs[NAIVE]().values - runs[EVERYWHERE]().values).abs().max())
        print(f"drawn everywhere or where it counts: tokens at most {apart:.1e} apart")
    passes = {name: trunk_passes(model, run) for name, run in runs.items()}
    seconds = interleaved(runs, arguments.rounds)
    distance = {} if system is None else distances(system, rows, arguments.count)
    print(f"\n  {'':<52} {'passes':>7} {'s a picture':>12} {'faster':>8}" + (f" {'Frechet':>9}" if distance else ""))
    table = []
    for name in rows:
        each, faster = seconds[name] / arguments.batch, seconds[NAIVE] / seconds[name]
        told = f" {distance[name]:>9.1f}" if distance else ""
        print(f"  {name:<52} {passes[name]:>7} {each:>12.4f} {faster:>7.1f}x{told}")
        table.append({"way": name, "passes": passes[name], "seconds": each, "faster": faster, "frechet": distance.get(name)})
    names = ("checkpoint", "count", "tokens", "layers", "width", "iterations", "head_steps", "guidance", "batch", "rounds")
    print(json.dumps({"machine": machine, "settings": {name: getattr(arguments, name) for name in names}, "rows": table}))


if __name__ == "__main__":
    main()
