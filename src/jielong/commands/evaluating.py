"""``jielong evaluate``: the figures that apply to a checkpoint, with their provenance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from jielong.commands.generating import HeadSteps, LateHeadSteps, Seed, Steps, Strength, Temperature, TopK, TopP, guidance_of
from jielong.commands.screen import notes, results, say, table
from jielong.commands.showing import Data
from jielong.commands.tokenizing import Checkpoint, Device

if TYPE_CHECKING:
    from jielong.evaluation.evaluate import Evaluation

_UNITS = {
    "psnr": "{:.2f} dB",
    "ssim": "{:.4f}",
    "codebook_usage": "{:.1%}",
    "frechet": "{:.2f}",
    "bits_per_dimension": "{:.3f}",
    "nats_per_token": "{:.3f}",
}


def evaluate(
    checkpoint: Checkpoint,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with provenance, and nothing else.")] = False,
    count: Annotated[int | None, typer.Option("-n", min=1, help="Only so many held-out items, evenly spread.")] = None,
    data: Data = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Strength = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    head_steps: HeadSteps = None,
    late_head_steps: LateHeadSteps = None,
    device: Device = "cpu",
) -> None:
    """Measure a tokenizer or a generator on held-out data."""
    strength = guidance_of(guidance)
    from jielong.evaluation.evaluate import Draws
    from jielong.evaluation.evaluate import evaluate as measure
    from jielong.system import load

    system = load(checkpoint, device)
    draws = Draws(seed, steps, strength, temperature, top_k, top_p, head_steps, late_head_steps)
    with Progress(console=notes, transient=True) as bar:
        tasks = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        measured = measure(system, data, count, draws, progress=report)
    if as_json:
        typer.echo(json.dumps(measured.to_json(), ensure_ascii=False, allow_nan=False))
    else:
        _print(measured, checkpoint)


def _print(measured: Evaluation, checkpoint: str) -> None:
    rows = [
        (name, _UNITS.get(name, "{:.1%}").format(figure.value), f"{figure.n:,}", str(figure.details.get("warning", "")))
        for name, figure in measured.figures.items()
    ]
    reference = measured.provenance["reference"]
    results.print(table(f"{checkpoint} on the held-out split of {reference['set']}", ("figure", "value", "n", "note"), rows))
    for name, reason in measured.omitted.items():
        say(f"without {name}: {reason}")
    say(f"{measured.seconds:.1f} s; --json prints how each figure was made")
