"""Masked sampling of continuous tokens: naive sampling against each speed option, and against combinations of them.

    python benchmarks/mar.py                                     # speed only: random weights, 256 tokens of 16 channels
    python benchmarks/mar.py --checkpoint mar-faces              # speed at 256 tokens; speed and quality of the trained model
    python benchmarks/mar.py --checkpoint mar-faces --count 64 --ways naive mixed --rounds 1
    python benchmarks/mar.py --quick                             # a smoke run

Naive sampling is that of MAR: 64 iterations of the whole backbone and NFE 100 per token, both doubled by guidance. All rows of a column
use the same weights and random numbers. Shipped models have fewer than 256 tokens, so with a checkpoint there are two columns of time:
its parts with random weights at ``--tokens`` (which take as long as trained ones), and the trained model. Quality is of the latter:
images of held-out captions, the same for all rows, with the Frechet distance to the real ones, its ratio to the naive row's with a paired
interval of 90 % (``benchmarks/paired.py``), and R@1 of 100. Frechet distances compare at equal numbers of images only. Rounds of all rows
alternate, so that load of the machine affects all; medians are reported. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

import torch
from paired import frechet_ratio
from timing import interleaved, machine

from jielong.backbones.mar import Mar
from jielong.conditions.base import BuildContext
from jielong.conditions.classes import Class
from jielong.config.guidance import Guidance
from jielong.config.sampling import Lazy, SamplingConfig
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.diffusion import Diffusion
from jielong.networks.denoiser import MLP
from jielong.orders.masked import Masked
from jielong.orders.ratio import Ratio

NAIVE = "naive"
ALL_POSITIONS = "all positions: naive, and the head at all positions"
COMBINATIONS: tuple[tuple[str, float, tuple[float, float], tuple[str, ...]], ...] = (
    ("mixed", 1 / 4, (0.15, 0.05), ("lazy", "interval")),
    ("staged", 3 / 16, (0.15, 0.05), ("two stages",)),
    ("few of both", 3 / 16, (0.15, 0.05), ()),
    ("fewest", 5 / 32, (0.15, 0.05), ()),
    ("lazy", 1 / 4, (0.25, 0.05), ("lazy",)),
    ("all of them", 1 / 4, (0.15, 0.05), ("lazy", "two stages")),
)
"""Names, fractions of the naive iterations, fractions of the naive NFE when no and when all tokens are known, and further options. The
scale of the guidance interval is three quarters of the way from 1 to the naive scale; it ends when four fifths of the tokens are known.
It is the only option that changes the target distribution."""


def make(arguments: argparse.Namespace, system: Any = None) -> Generator:
    """A masked autoencoder over a square grid with random weights: MAR's parts, or those of a trained system."""
    side = math.isqrt(arguments.tokens)
    if side * side != arguments.tokens:
        raise SystemExit(f"--tokens takes square numbers, such as 64 or 256, not {arguments.tokens}")
    torch.manual_seed(0)
    if system is not None:
        recipe, trained = system.recipe, system.generator
        layout = Layout((side, side), channels=trained.layout.channels)
        condition = trained.condition
        backbone = recipe.backbone.build(layout, None if condition is None else condition.width)
        model = Generator(layout, recipe.order.build(), backbone, recipe.head.build(backbone.width, layout), condition)
    else:
        layout, half = Layout((side, side), channels=16), arguments.layers // 2
        mar = Mar(encoder_layers=half, decoder_layers=arguments.layers - half, width=arguments.width, heads=4, buffer=arguments.tokens // 4)
        head = Diffusion(network=MLP(layers=3, width=arguments.width))
        order = Masked(choose="random", ratio=Ratio(kind="truncated_normal"))
        condition = Class(width=64).build(BuildContext(["one", "two"]))
        model = Generator(layout, order.build(), mar.build(layout, 64), head.build(arguments.width, layout), condition)
    for parameter in model.head.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval()


def ways(arguments: argparse.Namespace, iterative: bool, temperature: float) -> dict[str, dict[str, Any]]:
    """What each row asks of ``generate``: one option more than the naive one, and combinations."""
    iterations, num_inference_steps = arguments.iterations, arguments.num_inference_steps

    def sampling(early: int | None = None, late: int | None = None) -> dict[str, Any]:
        counts = {"num_inference_steps": early or num_inference_steps, "final_inference_steps": late} if iterative else {}
        return {"sampling": SamplingConfig(temperature=temperature, **counts)}

    def share(part: float) -> int:
        return max(1, round(part * iterations))

    few, lazy = share(1 / 4), {"lazy": Lazy()}
    two_stage = {"detail_steps": max(1, few // 8)}
    interval = {"guidance": Guidance(scale=1 + 0.75 * (arguments.guidance - 1), kind="interval", stop=0.8)}
    naive = {"steps": iterations, "guidance": Guidance(scale=arguments.guidance, kind="linear"), **sampling()}
    rows: dict[str, dict[str, Any]] = {NAIVE: naive}
    if arguments.all_positions:
        rows[ALL_POSITIONS] = naive | {"cache": False}
    if iterative:
        for part in (2, 10):
            rows[f"NFE {max(1, num_inference_steps // part)}"] = naive | sampling(max(1, num_inference_steps // part))
        early, late = max(1, num_inference_steps // 2), max(1, num_inference_steps // 10)
        rows[f"NFE {early}, falling to {late} as tokens are known (DiSA)"] = naive | sampling(early, late)
    rows[f"{few} iterations"] = naive | {"steps": few}
    rows[f"{few} iterations, the last {max(1, few // 8)} for details (GtR)"] = naive | {"steps": few, **two_stage}
    rows["refreshed lazily (LazyMAR)"] = naive | lazy
    rows["guided until four fifths are known"] = naive | {"guidance": Guidance(scale=arguments.guidance, kind="interval", stop=0.8)}
    for name, part, (early, late), options in COMBINATIONS:
        counts = sampling(max(1, round(early * num_inference_steps)), max(1, round(late * num_inference_steps))) if iterative else {}
        chosen = {"lazy": lazy, "two stages": two_stage, "interval": interval}
        extra = {key: value for option in options for key, value in chosen[option].items()}
        nfe = [f"NFE {counts['sampling'].num_inference_steps} to {counts['sampling'].final_inference_steps}"] if iterative else []
        rows[f"{name}: {', '.join([f'{share(part)} iterations', *nfe, *options])}"] = naive | {"steps": share(part)} | counts | extra
    wanted = {name: options for name, options in rows.items() if not arguments.ways or any(name.startswith(way) for way in arguments.ways)}
    return {NAIVE: naive} | wanted


def drawing(model: Generator, conditions: list[Any] | None, count: int, options: dict[str, Any]) -> Callable[[], Tokens]:
    options = options if conditions is not None else options | {"guidance": 1.0}
    return lambda: model.generate(conditions, count if conditions is None else None, batch=count, seed=0, **options)


def qualities(system: Any, rows: dict[str, dict[str, Any]], count: int) -> dict[str, dict[str, Any]]:
    """Metrics of each row's images, one per held-out caption or class: Frechet distance, its ratio to the naive row's, R@1."""
    from jielong.data.order import spread
    from jielong.evaluation.evaluate import heldout_items
    from jielong.evaluation.features import FeatureExtractor
    from jielong.evaluation.frechet import distance_of_few
    from jielong.evaluation.retrieval import retrieval_at_1
    from jielong.evaluation.scorer import Scorer, ScorerError

    images = heldout_items(system.recipe, system.recipe.data.set, system.tokenizer.media)
    kind = ", ".join(system.inputs) or None
    places = spread(len(images), min(count, len(images)))
    extractor = FeatureExtractor()
    scorer = None
    if kind == "text" and len(set(images.captions)) >= 100:
        try:
            scorer = Scorer.trained_on(images.name, extractor)
        except ScorerError as error:
            print(f"no R@1: {error}")
    real = extractor.extract(images.media(places)).values
    conditions = None if kind is None else [(images.captions if kind == "text" else images.labels)[place] for place in places]
    features, found = {}, {}
    for name, options in rows.items():
        options = options if conditions is not None else options | {"guidance": 1.0}
        tokens = system.generator.generate(conditions, None if conditions is not None else len(places), seed=0, **options)
        pictures = system.decode(tokens)
        features[name] = extractor.extract(pictures).values
        found[name] = {"frechet": distance_of_few(features[name], real)}
        if len(places) >= 32:
            ratio = frechet_ratio(features[name], features[NAIVE], real)
            found[name]["ratio"] = [ratio.low, ratio.value, ratio.high]
        if scorer is not None:
            found[name]["retrieval_at_1"] = retrieval_at_1(pictures, conditions or (), images.captions, scorer=scorer).value
        print(f"  {name}: {described(found[name])}", flush=True)
    return found


def described(quality: dict[str, Any]) -> str:
    """Metrics of a row as text."""
    words = f"{quality['frechet']:>8.1f}"
    if "ratio" in quality:
        low, value, high = quality["ratio"]
        words += f" {value:>6.3f} [{low:.3f}, {high:.3f}]"
    return words + (f" {100 * quality['retrieval_at_1']:>6.1f} %" if "retrieval_at_1" in quality else "")


def backbone_passes(model: Generator, run: Callable[[], Tokens]) -> int:
    """Number of calls of the backbone."""
    calls = []
    handle = model.backbone.register_forward_hook(lambda module, arguments, result: calls.append(len(result)))
    run()
    handle.remove()
    return len(calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=None, help="a generator of masked order over continuous tokens")
    parser.add_argument("--count", type=int, default=256, help="number of held-out captions, with --checkpoint")
    parser.add_argument("--tokens", type=int, default=256, help="of random weights")
    parser.add_argument("--layers", type=int, default=6, help="of random weights, half of them the encoder's")
    parser.add_argument("--width", type=int, default=256, help="of random weights")
    parser.add_argument("--iterations", type=int, default=64, help="of the naive schedule")
    parser.add_argument("--num-inference-steps", type=int, default=100, help="of the naive schedule")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=1, help="pictures at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch; all by default")
    parser.add_argument(
        "--all-positions", action="store_true", help="also the reference, which runs the head at all positions in every iteration"
    )
    parser.add_argument("--ways", nargs="+", default=None, help="rows by the start of their names, besides the naive one; all by default")
    parser.add_argument("--quick", action="store_true", help="a smoke run: small sizes and one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.tokens, arguments.layers, arguments.width, arguments.rounds = 16, 2, 16, 1
        arguments.iterations, arguments.num_inference_steps, arguments.count, arguments.all_positions = (
            8,
            6,
            4,
            arguments.checkpoint is None,
        )
    measured_on = machine(arguments.threads)
    system = None
    if arguments.checkpoint is not None:
        from jielong.system import load

        system = load(arguments.checkpoint, "cpu")
        if system.generator is None or system.tokenizer.layout.discrete:
            raise SystemExit(
                f"--checkpoint takes a generator of continuous tokens, such as one of the recipe mar, not {arguments.checkpoint}"
            )
    trained: Generator | None = None if system is None else system.generator
    model = make(arguments, system)
    temperature = 1.0 if system is None else system.recipe.sampling.temperature
    rows = ways(arguments, model.head.iterative, temperature)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    layout = model.layout
    print(f"{layout.positions} tokens of {layout.channels}, {numbers:,} parameters, batch {arguments.batch}; {measured_on}", flush=True)
    conditions: list[Any] | None = None
    if model.condition is not None:
        conditions = (["red heart"] if system is not None and system.inputs == ("text",) else [0]) * arguments.batch
    runs = {name: drawing(model, conditions, arguments.batch, options) for name, options in rows.items()}
    if arguments.all_positions:
        apart = float((runs[NAIVE]().values - runs[ALL_POSITIONS]().values).abs().max())
        print(f"head at all or at revealed positions: largest difference of tokens {apart:.1e}")
    passes = {name: backbone_passes(model, run) for name, run in runs.items()}
    seconds = {str(layout.positions): interleaved(runs, arguments.rounds)}
    quality: dict[str, dict[str, Any]] = {}
    if trained is not None:
        trained_runs = {name: drawing(trained, conditions, arguments.batch, options) for name, options in rows.items()}
        seconds[f"trained, {trained.layout.positions}"] = interleaved(trained_runs, arguments.rounds)
        quality = qualities(system, rows, arguments.count)
    heads = "".join(f" {f's ({what})':>16} {'faster':>7}" for what in seconds)
    print(f"\n  {'':<66} {'passes':>6}{heads}" + ("  Frechet  to naive, 90 %         R@1" if quality else ""))
    table = []
    for name in rows:
        times = {what: {"seconds": each[name] / arguments.batch, "faster": each[NAIVE] / each[name]} for what, each in seconds.items()}
        columns = "".join(f" {time['seconds']:>16.4f} {time['faster']:>6.1f}x" for time in times.values())
        print(f"  {name:<66} {passes[name]:>6}{columns}" + (f" {described(quality[name])}" if quality else ""))
        table.append({"way": name, "passes": passes[name], "times": times, **quality.get(name, {})})
    names = ("checkpoint", "count", "tokens", "layers", "width", "iterations", "num_inference_steps", "guidance", "batch", "rounds")
    print(json.dumps({"machine": measured_on, "settings": {name: getattr(arguments, name) for name in names}, "rows": table}))


if __name__ == "__main__":
    main()
