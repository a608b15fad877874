"""``jielong evaluate``: metrics of a checkpoint, with provenance."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import Progress

from jielong.apps.commands.adapter_options import Adapters
from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.generating import Autoguidance, Seed
from jielong.apps.commands.sampling_options import takes_sampling
from jielong.apps.commands.screen import notes, results, say, table
from jielong.apps.commands.showing import Data
from jielong.apps.commands.tokenizing import Checkpoint

if TYPE_CHECKING:
    from rich.table import Table

    from jielong.evaluation.evaluate import Evaluation
    from jielong.evaluation.provenance import Measurement

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
    "density": "{:.3f}",
    "kernel": "{:.3f}",
    "times_real_time": "{:.2f}",
    "first_sound_ms": "{:.0f} ms",
}

CLASSES = 20
"""Most classes that the table lists."""

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


FigureChoice = Annotated[
    Literal["fast", "full"],
    typer.Option("--figures", help="fast compares samples with 2,048 training items at most, full with 50,000; their features are kept."),
]


@takes_sampling("soft_codes", "frames")
def evaluate(
    checkpoint: Checkpoint,
    as_json: Annotated[bool, typer.Option("--json", help="Print only one JSON object, with provenance.")] = False,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Held-out items, evenly spread; all by default.")] = None,
    data: Data = None,
    seed: Seed = 0,
    sampling: dict[str, Any] = {},  # noqa: B006 - read by takes_sampling, never changed
    negative_text: Annotated[str, typer.Option(help=NEGATIVE_TEXT_HELP)] = "",
    autoguidance: Autoguidance = None,
    adapter: Adapters = None,
    length: Length = None,
    skip_metric: SkipMetric = None,
    figures: FigureChoice = "fast",
    sheet: Annotated[
        Path | None, typer.Option(help="Write a sample grid: samples most similar to training items, above those (an image file).")
    ] = None,
    device: Device = "auto",
) -> None:
    """Evaluate a tokenizer or a generator on held-out data."""
    from jielong.evaluation.context import KNOWN, KNOWN_FULL, DrawSettings
    from jielong.evaluation.evaluate import evaluate as measure
    from jielong.evaluation.frechet import SmallSampleWarning
    from jielong.system import load
    from jielong.system.autoguidance import autoguided

    if sheet is not None and sheet.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise typer.BadParameter(f"{sheet} is no image file: give one that ends in .png, .jpg or .webp", param_hint="--sheet")
    system = load(checkpoint, chosen_device(device), adapters=adapter or ())
    if autoguidance is not None:
        system = autoguided(system, load(autoguidance, chosen_device(device)))
    draws = DrawSettings(seed, system.default_sampling(bool(system.inputs)).override(**sampling), length, negative_text)
    warnings.simplefilter("ignore", SmallSampleWarning)  # the table and the JSON have it beside its figure
    with Progress(console=notes, transient=True) as bar:
        tasks = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        known = KNOWN_FULL if figures == "full" else KNOWN
        measured = measure(system, data, count, draws, progress=report, skip_metrics=skip_metric or (), known=known)
    if sheet is not None:
        _write_pairs(measured, sheet)
    if as_json:
        typer.echo(json.dumps(measured.to_json(), ensure_ascii=False, allow_nan=False))
    else:
        _print(measured, checkpoint)


def figure_of(name: str) -> str:
    """Name of a metric without the suffix of its data: ``wer_real`` is ``wer``."""
    return name.removesuffix("_real").removesuffix("_rebuilt")


def _write_pairs(measured: Evaluation, path: Path) -> None:
    if measured.pairs is None:
        reason = measured.omitted.get("memorised", "only samples of a generator are compared with training items")
        say(f"{path} not written: {reason}")
        return
    measured.pairs.sheet(columns=len(measured.pairs) // 2, scale=2 if measured.pairs.sample_suffix is None else 1).save(path)
    say(f"{path}: samples above, the training items that they are most similar to below")


def _print(measured: Evaluation, checkpoint: str) -> None:
    found = measured.figures
    sides = [side for side in ("_real", "_rebuilt") if any(name.endswith(side) for name in found)]
    rows = []
    for name in dict.fromkeys(map(figure_of, found)):
        cells = [_cell(name, found[name + side].value) if name + side in found else "" for side in ("", *sides)]
        first = next(found[name + side] for side in ("", *sides) if name + side in found)
        rows.append((name, *cells, f"{first.n:,}", _note(first)))
    reference = measured.provenance["reference"]
    titles = ("figure", "value", *(side.removeprefix("_") for side in sides), "n", "note")
    results.print(table(f"{checkpoint} on the held-out split of {reference['set']}", titles, rows))
    for group in (_classes(measured), _attributes(measured)):
        if group is not None:
            results.print(group)
    for name, reason in measured.omitted.items():
        say(f"{name} omitted: {reason}")
    say(f"{measured.seconds:.1f} s; --json prints how each figure was made")


def _cell(name: str, value: float) -> str:
    return _UNITS.get(name, "{:.1%}").format(value)


def _note(figure: Measurement) -> str:
    """What a value means beside chance or the same distribution, and its caveat."""
    details = figure.details
    among = f"of {details['candidates']} captions" if "candidates" in details else ""
    chance = f"chance {figure.number('chance'):.1%}" if "chance" in details else ""
    same = f"same distribution {figure.number('same_distribution'):.2f}" if "same_distribution" in details else ""
    return "; ".join(filter(None, (among, chance, same, str(details.get("warning", "")))))


def _classes(measured: Evaluation) -> Table | None:
    """Figures of each class."""
    shown: dict[str, Any] = {name: each.details["by_class"] for name, each in measured.figures.items() if "by_class" in each.details}
    shown = {name: groups for name, groups in shown.items() if name == figure_of(name)}
    if not shown:
        return None
    names = list(dict.fromkeys(group for groups in shown.values() for group in groups))
    rows = [
        (name, str(next(iter(shown.values()))[name]["n"]), *(_cell(figure, groups[name]["value"]) for figure, groups in shown.items()))
        for name in names[:CLASSES]
    ]
    more = f", the first {CLASSES} of {len(names)} (--json has all)" if len(names) > CLASSES else ""
    return table(f"by class{more}", ("class", "n", *shown), rows)


def _attributes(measured: Evaluation) -> Table | None:
    """Accuracy of each attribute, of samples and of real items."""
    sides = [measured.figures[name] for name in ("attribute_accuracy", "attribute_accuracy_real") if name in measured.figures]
    if not sides:
        return None
    read: list[Any] = [each.details["attributes"] for each in sides]
    rows = [(name, *(f"{each[name]:.1%}" for each in read)) for name in read[0]]
    return table("by attribute", ("attribute", "samples", "real")[: 1 + len(read)], rows)
