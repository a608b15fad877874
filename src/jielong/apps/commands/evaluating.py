"""``jielong evaluate``: metrics of a checkpoint, with provenance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.generating import Seed
from jielong.apps.commands.sampling_options import takes_sampling
from jielong.apps.commands.screen import notes, results, say, table
from jielong.apps.commands.showing import Data
from jielong.apps.commands.tokenizing import Checkpoint

if TYPE_CHECKING:
    from jielong.evaluation.evaluate import Evaluation

_UNITS = {
    "psnr": "{:.2f} dB",
    "ssim": "{:.4f}",
    "codebook_usage": "{:.1%}",
    "frechet": "{:.2f}",
    "bits_per_dimension": "{:.3f}",
    "nats_per_token": "{:.3f}",
    "mel_distance": "{:.2f} dB",
    "si_sdr": "{:.2f} dB",
    "stft_distance": "{:.3f}",
    "bitrate": "{:.2f} kbit/s",
    "dnsmos": "{:.2f}",
    "speaker_similarity": "{:.3f}",
    "other_speaker_similarity": "{:.3f}",
    "length_ratio": "{:.3f}",
    "frechet_mel": "{:.2f}",
    "kernel": "{:.3f}",
    "times_real_time": "{:.2f}",
    "first_sound_ms": "{:.0f} ms",
}


NEGATIVE_TEXT_HELP = "Text that guidance leads away from, in place of the null condition."
Length = Annotated[
    float | None,
    typer.Option("--length", help="Durations relative to the recordings', for audio generators with a duration condition."),
]
SkipMetric = Annotated[
    list[str] | None,
    typer.Option(
        "--skip-metric",
        metavar="NAME",
        help="Do not compute a metric of generated audio, such as dnsmos, which takes seconds per clip; repeatable.",
    ),
]


@takes_sampling("soft_codes")
def evaluate(
    checkpoint: Checkpoint,
    as_json: Annotated[bool, typer.Option("--json", help="Print only one JSON object, with provenance.")] = False,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Held-out items, evenly spread; all by default.")] = None,
    data: Data = None,
    seed: Seed = 0,
    sampling: dict[str, Any] = {},  # noqa: B006 - read by takes_sampling, never changed
    negative_text: Annotated[str, typer.Option(help=NEGATIVE_TEXT_HELP)] = "",
    length: Length = None,
    skip_metric: SkipMetric = None,
    device: Device = "auto",
) -> None:
    """Evaluate a tokenizer or a generator on held-out data."""
    from jielong.evaluation.context import DrawSettings
    from jielong.evaluation.evaluate import evaluate as measure
    from jielong.system import load

    system = load(checkpoint, chosen_device(device))
    draws = DrawSettings(seed, system.default_sampling(bool(system.inputs)).override(**sampling), length, negative_text)
    with Progress(console=notes, transient=True) as bar:
        tasks = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        measured = measure(system, data, count, draws, progress=report, skip_metrics=skip_metric or ())
    if as_json:
        typer.echo(json.dumps(measured.to_json(), ensure_ascii=False, allow_nan=False))
    else:
        _print(measured, checkpoint)


def figure_of(name: str) -> str:
    """Name of a metric without the suffix of its data: ``wer_real`` is ``wer``."""
    return name.removesuffix("_real").removesuffix("_rebuilt")


def _print(measured: Evaluation, checkpoint: str) -> None:
    rows = [
        (name, _UNITS.get(figure_of(name), "{:.1%}").format(figure.value), f"{figure.n:,}", str(figure.details.get("warning", "")))
        for name, figure in measured.figures.items()
    ]
    reference = measured.provenance["reference"]
    results.print(table(f"{checkpoint} on the held-out split of {reference['set']}", ("figure", "value", "n", "note"), rows))
    for name, reason in measured.omitted.items():
        say(f"{name} omitted: {reason}")
    say(f"{measured.seconds:.1f} s; --json prints how each figure was made")
