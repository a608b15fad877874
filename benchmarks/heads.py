"""All heads of continuous tokens trained equally on one frozen backbone: quality by NFE per token.

    python benchmarks/heads.py --checkpoint mar-faces --out runs/heads     # trains, samples, prints the table; run it again to resume
    python benchmarks/heads.py --checkpoint mar-faces --count 128 --heads energy mean_flow diffusion
    python benchmarks/heads.py --quick                                     # a smoke run

*Training.* Condition, embedding and backbone of a trained generator are frozen, and every head is trained from scratch on their hidden
vectors: one pass of the backbone per batch, without gradient, then each head's loss and step on the same positions of the same pictures.
Optimizer, learning rate and EMA are those of the checkpoint's recipe for its head (AdamW, also where the recipe says Muon, which does not
train heads). All networks have the recipe's layers and width. Gaussian mixture and regression are linear maps in this project; here a
residual network of that size precedes them. Diffusion is trained from scratch too. The frozen backbone was trained with a diffusion head,
which favours diffusion; no head can adapt the backbone.

*Sampling.* Guidance scale and temperature of each head are chosen on captions of the training split (the scale at temperature 1, then the
temperature at that scale, by the Frechet distance to those captions' pictures, at the head's default NFE), and used for all its rows.
Reported figures are of held-out captions, one picture each, with the same seeds for all rows. The Frechet distance has fewer pictures than
features: compare it within one table only. NFE counts the head's network per token; a guided evaluation covers both halves. The held-out
loss of mean_flow and shortcut is flow matching's, that of consistency is on the finest grid: losses of different heads do not compare. The
last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from heads_sampling import FrozenGenerator, HeadMetrics, SamplingChoice
from heads_training import HeadsObjective, build_heads
from quick import scratch, trained

from jielong.core.files import write_bytes
from jielong.core.rng import PerSampleRNG
from jielong.data.order import spread
from jielong.evaluation.provenance import machine
from jielong.heads.base import Head
from jielong.media.images import sheet, write_image
from jielong.system import load
from jielong.training import token_cache as cache
from jielong.training.checkpoint import load_weights
from jielong.training.experiment import prepare
from jielong.training.objective import StepRNG
from jielong.training.settings import TrainSettings
from jielong.training.stream import TrainingStream
from jielong.training.trainer import train

NFE: dict[str, tuple[int, ...]] = {
    "diffusion": (100, 50, 25, 10, 4, 2, 1),
    "flow_matching": (50, 20, 8, 4, 2, 1),
    "mean_flow": (4, 2, 1),
    "shortcut": (8, 4, 2, 1),
    "consistency": (2, 1),
    "energy": (1,),
    "gaussian_mixture": (1,),
    "regression": (1,),
}
"""NFE per token at which each head is measured; the last three always have one."""


def measure(metrics: HeadMetrics, name: str, head: Head, arguments: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """All metrics of a head: read from the output folder if computed with the same settings, else computed and written to it."""
    path = arguments.out / f"{name}.json"
    if path.exists() and (written := json.loads(path.read_text()))["settings"] == settings:
        return written
    choice, tried = metrics.choose(head, arguments.guidance, arguments.temperatures)
    rows, strips = [], []
    for nfe in NFE[name][-arguments.rows :]:
        row, strip = metrics.row(head, choice, nfe)
        print(f"  {name}, NFE {nfe}: {described(row)}", flush=True)
        rows.append(row)
        strips.append(strip)
    write_image(arguments.out / f"{name}.png", sheet(torch.cat(strips), columns=len(strips[0])))
    found = {"head": name, **asdict(choice), "tried": tried, "rows": rows, "settings": settings}
    write_bytes(path, json.dumps(found, indent=1).encode())
    return found


def described(row: dict[str, Any]) -> str:
    """The metrics of a row in words."""
    retrieval = f", retrieval {100 * row['retrieval_at_1']:.1f} %" if "retrieval_at_1" in row else ""
    return f"Frechet {row['frechet']:.1f} of {row['count']}{retrieval}, {row['seconds_per_picture']:.3f} s per picture"


def estimate(
    frozen: FrozenGenerator, objective: HeadsObjective, stream: TrainingStream, settings: TrainSettings, arguments: argparse.Namespace
) -> None:
    """Print about how long everything takes, from one training step and one small batch of pictures."""
    start = time.perf_counter()
    batch = stream.batch(0, settings.batch)
    for phase in objective.phases:
        objective(batch, phase, 0, StepRNG(PerSampleRNG(0, range(settings.batch)), torch.Generator())).total.backward()
    objective.zero_grad()
    objective.clear()
    learning = (time.perf_counter() - start) * settings.samples / settings.batch
    rows = [(head, nfe) for name, head in objective.model.items() for nfe in NFE[name][-arguments.rows :]]
    head = next((head for head in objective.model.values() if head.iterative), next(iter(objective.model.values())))
    conditions = frozen.conditions(frozen.heldout, spread(len(frozen.heldout), 16))
    short, long = (frozen.sample(head, conditions, SamplingChoice(3.0, 1.0), nfe)[1] for nfe in (1, 21))
    per_evaluation = (long - short) / 20 if head.iterative else 0.0
    each = sum(short + nfe * per_evaluation for _, nfe in rows) * min(arguments.count, len(frozen.heldout))
    tried = len(arguments.guidance) + len(arguments.temperatures)
    trying = sum(short + getattr(head, "steps", 1) * per_evaluation for head in objective.model.values()) * tried * arguments.choose
    print(
        f"about {learning / 60:.0f} minutes to train {len(objective.phases)} heads, {trying / 60:.0f} to choose guidance and temperature, "
        f"{each / 60:.0f} to sample {len(rows)} rows; features and metrics not included",
        flush=True,
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="mar-faces", help="a generator of continuous tokens, whose backbone is used")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/heads"), help="output folder: heads, metrics and sheets; an existing one is resumed"
    )
    parser.add_argument("--heads", nargs="+", choices=list(NFE), default=list(NFE))
    parser.add_argument("--samples", type=int, default=60_000, help="pictures that each head is trained on")
    parser.add_argument("--tokens", type=int, default=32, help="positions per picture that are trained on, at most")
    parser.add_argument("--diffusion-batch-mul", type=int, default=1, help="noisy copies of a token, of heads that take several")
    parser.add_argument("--lr", type=float, default=None, help="peak learning rate; the recipe's by default")
    parser.add_argument("--count", type=int, default=1_000_000, help="held-out captions; all by default")
    parser.add_argument("--choose", type=int, default=48, help="captions of the training split by which scale and temperature are chosen")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.5, 3.0, 5.0], help="scales to choose from")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.9, 0.8], help="to choose from, beside 1")
    parser.add_argument("--rows", type=int, default=7, help="rows of a head at most, from the smallest NFE up")
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch; all by default")
    parser.add_argument("--quick", action="store_true", help="a smoke run: small numbers and a checkpoint of two steps")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.samples, arguments.tokens, arguments.count, arguments.choose, arguments.rows = 16, 8, 4, 2, 2
        arguments.guidance, arguments.temperatures = [3.0], []
        arguments.checkpoint, arguments.out = trained("mar-tiny", tokenizer=trained("kl-tiny")), scratch() / "heads"
    return arguments


def main() -> None:
    arguments = parsed()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    system = load(arguments.checkpoint, "cpu")
    if system.generator is None or system.generator.layout.discrete:
        raise SystemExit(f"--checkpoint takes a generator of continuous tokens, such as mar-faces, not {arguments.checkpoint}")
    recipe = system.recipe
    train_settings = recipe.train.model_copy(
        update={
            "samples": arguments.samples,
            "optimizer": "adamw",
            "lr": arguments.lr or recipe.train.lr,
            "warmup": arguments.samples // 25,
            "micro_batch": None,
        }
    )
    experiment = prepare(recipe)
    frozen = FrozenGenerator(experiment, system)
    heads = build_heads(arguments.heads, experiment, arguments.samples, arguments.diffusion_batch_mul)
    objective = HeadsObjective(heads, frozen.targets, arguments.tokens)
    stream = TrainingStream(experiment.data, train_settings.seed, cache.cached(system.tokenizer, experiment.data))
    sizes = {name: sum(parameter.numel() for parameter in head.parameters()) for name, head in heads.items()}
    print(f"{arguments.checkpoint}: {system.generator.layout.positions} tokens of {system.generator.layout.channels}; {machine()}")
    estimate(frozen, objective, stream, train_settings, arguments)
    setup = {name: getattr(arguments, name) for name in ("checkpoint", "heads", "tokens", "diffusion_batch_mul")}
    run = {**setup, "train": train_settings.model_dump(mode="json")}
    summary = train(objective, stream, train_settings, arguments.out, recipe_yaml=json.dumps(run, indent=1), device="cpu", evaluate=False)
    if not summary.finished:
        raise SystemExit("stopped; run the same command again to resume")
    load_weights(objective.model, arguments.out)
    trained_heads = objective.model.eval().requires_grad_(False)
    heldout = frozen.heldout_losses(trained_heads, min(arguments.count, len(frozen.heldout)))
    metrics = HeadMetrics(frozen, arguments.count, arguments.choose)
    evaluation = {name: getattr(arguments, name) for name in ("count", "choose", "guidance", "temperatures", "rows")}
    results = []
    for name, head in trained_heads.items():
        found = measure(metrics, name, head, arguments, {**run, **evaluation})
        losses = {"loss": summary.metrics.get(name), "heldout_loss": heldout[name], "parameters": sizes[name]}
        results.append({key: value for key, value in found.items() if key != "settings"} | losses)
    show(results)
    print(json.dumps({"machine": machine(), "settings": run | evaluation, "training_seconds": summary.seconds, "heads": results}))


def show(results: Sequence[dict[str, Any]]) -> None:
    print(
        f"\n  {'head':<18} {'NFE':>5} {'Frechet':>9} {'(count)':>8} {'retrieval@1':>12} {'s/picture':>12} "
        f"{'scale':>6} {'temperature':>12} {'loss':>8} {'held-out':>9}"
    )
    for head in results:
        for row in head["rows"]:
            retrieval = f"{100 * row['retrieval_at_1']:.1f} %" if "retrieval_at_1" in row else "-"
            print(
                f"  {head['head']:<18} {row['nfe']:>5} {row['frechet']:>9.1f} {row['count']:>8} {retrieval:>12} "
                f"{row['seconds_per_picture']:>12.4f} {head['guidance']:>6.1f} {head['temperature']:>12.1f} {head['loss']:>8.3f} "
                f"{head['heldout_loss']:>9.3f}"
            )


if __name__ == "__main__":
    main()
