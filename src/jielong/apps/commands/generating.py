"""``jielong generate``: generate with or without conditions."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jielong.apps.commands.adapter_options import Adapters
from jielong.apps.commands.condition_options import inputs_of
from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.outputs import Out, output_of
from jielong.apps.commands.sampling_options import takes_sampling
from jielong.apps.commands.screen import say
from jielong.apps.commands.tokenizing import Checkpoint
from jielong.config.sampling import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from jielong.core.tokens import Layout
    from jielong.media.results import Results
    from jielong.system import System

Seed = Annotated[int, typer.Option(help="Seed; item i depends on seed and i alone (in another batch, rounding may flip a token).")]
Autoguidance = Annotated[
    str | None,
    typer.Option(
        metavar="CHECKPOINT", help="A weaker model of the same tokens that guidance leads away from, in place of the null condition."
    ),
]


class Keep(Enum):
    """The half, or the region of a task, that is kept."""

    first = "first"
    last = "last"
    upper = "upper"
    lower = "lower"
    left = "left"
    right = "right"
    frame_prediction = "frame_prediction"
    interpolation = "interpolation"
    last_frame = "last_frame"
    central_inpainting = "central_inpainting"
    central_outpainting = "central_outpainting"
    vertical_outpainting = "vertical_outpainting"
    horizontal_outpainting = "horizontal_outpainting"


@takes_sampling()
def generate(
    context: typer.Context,
    checkpoint: Checkpoint,
    count: Annotated[int, typer.Option("-n", min=1, help="Items per prompt.")] = 1,
    seed: Seed = 0,
    text_file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A file whose whole text is the one --text.")] = None,
    sampling: dict[str, Any] = {},  # noqa: B006 - read by takes_sampling, never changed
    out: Out = Path("generated"),
    complete: Annotated[
        Path | None, typer.Option(help="A file to keep a half of, or a recording to continue; the rest is generated.")
    ] = None,
    keep: Annotated[
        Keep, typer.Option(help="The half kept: first or last along time, upper or lower, left or right; or a task's region.")
    ] = Keep.upper,
    trace: Annotated[bool, typer.Option("--trace", help="Also write trace.json and an animation of every step (or spectrogram).")] = False,
    autoguidance: Autoguidance = None,
    adapter: Adapters = None,
    device: Device = "auto",
) -> None:
    """Generate images or audio into a folder with a sample grid, or into a file of the format that --out ends in."""
    if sampling.get("soft_codes") and trace:
        raise typer.BadParameter("--trace records codes, and soft codes are mixtures: drop one option", param_hint="--soft-codes")
    from jielong.apps.commands.trace import Recorder
    from jielong.system import load
    from jielong.system.autoguidance import autoguided
    from jielong.system.inputs import stage_names

    system = load(checkpoint, chosen_device(device), adapters=adapter or ())
    if autoguidance is not None:
        system = autoguided(system, load(autoguidance, chosen_device(device)))
    output = output_of(out, system.tokenizer.media)
    recorder = Recorder(system, drawn_layout(system, sampling)) if trace else None
    if said := described_extent(system, sampling):
        say(said)
    if trace and (earlier := stage_names(system.recipe)):
        say(f"--trace records the last stage of the cascade; {', '.join(earlier)} before it is drawn without a record")
    inputs, started = _inputs(context, text_file), time.perf_counter()
    draw: Callable[..., Results[Any]] = system.generate
    if complete is not None:
        draw = partial(system.complete, _read(complete, system), keep.value)
    items = draw(**inputs, **sampling, count=count, seed=seed, on_step=recorder)
    taken = time.perf_counter() - started
    completed = {} if complete is None else {"complete": str(complete), "keep": keep.value}
    origin = {
        "checkpoint": checkpoint,
        **({"autoguidance": autoguidance} if autoguidance else {}),
        **({"adapters": adapter} if adapter else {}),
        "seed": seed,
        **provenance(inputs, sampling),
        **completed,
    }
    extra = None if recorder is None else partial(recorder.write, results=items, origin=origin)
    notice = output.write(items, origin, extra)
    say(items.summary(taken))
    if notice:
        say(notice)
    typer.echo(out)


def drawn_layout(system: System, sampling: dict[str, Any]) -> Layout | None:
    """The layout of what a generator draws."""
    from jielong.generation.extent import layout_of

    return None if system.generator is None else layout_of(system.generator, system.recipe.sampling.override(**sampling))


def described_extent(system: System, sampling: dict[str, Any]) -> str:
    """What is drawn beyond the number of frames of training, in words; empty where nothing is."""
    from jielong.generation.extent import describe_extent
    from jielong.generation.request import check_parts

    if system.generator is None:
        return ""
    config = system.recipe.sampling.override(**sampling)
    check_parts(system.generator, config)
    return describe_extent(system.generator, config)


def _inputs(context: typer.Context, text_file: Path | None) -> dict[str, list[object]]:
    """Values of condition inputs, and the text of a file with white space as single spaces."""
    from jielong.data.text import decode_text

    inputs = inputs_of(context)
    if text_file is None:
        return inputs
    if "text" in inputs:
        raise typer.BadParameter("give --text or --text-file, not both", param_hint="--text-file")
    return {**inputs, "text": [" ".join(decode_text(text_file.read_bytes(), str(text_file)).split())]}


def _read(path: Path, system: System) -> Tensor:
    """Read a file for the system's tokenizer, as its training data were, ``(C, *size)``."""
    from jielong.media.kinds.base import kind_of

    return kind_of(system.tokenizer.media).read(path, system.tokenizer.media, system.recipe.data)


def provenance(inputs: dict[str, list[object]], sampling: dict[str, Any]) -> dict[str, object]:
    """What was given beside checkpoint and seed, for the record."""
    changed = SamplingConfig().override(**sampling).model_dump(mode="json", exclude_defaults=True)
    given = {name: [value if isinstance(value, str | int | float) else str(value) for value in values] for name, values in inputs.items()}
    return {"inputs": given, "sampling": changed}
