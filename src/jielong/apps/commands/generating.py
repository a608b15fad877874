"""``jielong generate``: pictures from words, classes or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from jielong.apps.commands.condition_options import inputs_of
from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.screen import say
from jielong.apps.commands.staging import staged
from jielong.apps.commands.tokenizing import Checkpoint
from jielong.config.guidance import Guidance
from jielong.config.speed import Lazy, Schedule, TwoStage

if TYPE_CHECKING:
    from torch import Tensor

    from jielong.media.pictures import Pictures
    from jielong.media.players import Sounds
    from jielong.system import System

Seed = Annotated[int, typer.Option(help="Picture i is the same for the same seed, whatever is made beside it.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of an order that reveals gradually; the recipe's by default.")]
Strength = Annotated[
    str | None,
    typer.Option("--guidance", metavar="SCHEDULE", help="3, linear:3, ramp:3 or interval:3:0.1:0.6; 1 is off; the recipe's by default."),
]
Temperature = Annotated[float | None, typer.Option(min=0, help="Of the draws; 0 takes the likeliest code.")]
TopK = Annotated[int | None, typer.Option(min=0, help="Draw among the k likeliest codes; 0 is all.")]
TopP = Annotated[float | None, typer.Option(help="Draw among the likeliest codes that reach this probability; 1 is all.")]
HeadSteps = Annotated[
    int | None, typer.Option(min=1, help="Evaluations of a head that draws a token in several, such as diffusion; the recipe's by default.")
]
LateHeadSteps = Annotated[
    int | None, typer.Option(min=1, help="Their number at the last token: from --num-inference-steps it goes there in a straight line.")
]
Falling = Annotated[
    str | None,
    typer.Option(
        "--schedule", help="How the share of unknown tokens falls: cosine, arccos, linear, square or cubic; the order's by default."
    ),
]
DetailSteps = Annotated[
    int | None,
    typer.Option("--two-stage", min=1, metavar="DETAIL_STEPS", help="Draw a checkerboard first, and the rest in so many last steps."),
]
Laziness = Annotated[
    str | None,
    typer.Option(
        "--lazy",
        metavar="REFRESH[:SHARE]",
        help="Compute everything at every so many steps only, and between them a share of the positions: 4 or 4:0.25; 1 is off.",
    ),
]


class Keep(Enum):
    """Which half of a picture stays."""

    upper = "upper"
    lower = "lower"
    left = "left"
    right = "right"


_NUMBERS = {"constant": ("scale",), "linear": ("scale",), "ramp": ("scale",), "interval": ("scale", "start", "stop")}


def guidance_of(text: str | None) -> Guidance | None:
    """``3``, ``linear:3``, ``ramp:3`` or ``interval:3:0.1:0.6`` as a schedule.

    Raises:
        typer.BadParameter: if it is written in another way, or the numbers are impossible.
    """
    if text is None:
        return None
    first, *rest = text.split(":")
    kind, numbers = (first, rest) if first in _NUMBERS else ("constant", [first, *rest])
    names = _NUMBERS[kind]
    try:
        if len(numbers) != len(names):
            raise ValueError(f"{kind} takes {' and '.join(names)}")
        return Guidance.model_validate({"kind": kind, **{name: float(number) for name, number in zip(names, numbers, strict=True)}})
    except ValueError as error:
        problems = error.errors() if hasattr(error, "errors") else [{"msg": str(error)}]
        why = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in problems)
        message = f"guidance is written 3, linear:3, ramp:3 or interval:3:0.1:0.6, not {text!r} ({why})"
        raise typer.BadParameter(message, param_hint="--guidance") from None


def speed_of(schedule: str | None, detail_steps: int | None, lazy: str | None) -> dict[str, object]:
    """The options of ``--schedule``, ``--two-stage`` and ``--lazy``.

    Raises:
        typer.BadParameter: if one is written in another way, or a number is impossible.
    """
    names = get_args(Schedule)
    if schedule is not None and schedule not in names:
        raise typer.BadParameter(f"a schedule is one of {', '.join(names)}, not {schedule!r}", param_hint="--schedule")
    settings = None
    if lazy is not None:
        refresh, _, share = lazy.partition(":")
        try:
            settings = Lazy.model_validate({"refresh": int(refresh), **({"share": float(share)} if share else {})})
        except ValueError:
            message = f"laziness is written 4 or 4:0.25, steps of 1 or more and a share from 0 to 1, not {lazy!r}"
            raise typer.BadParameter(message, param_hint="--lazy") from None
    return {"schedule": schedule, "two_stage": None if detail_steps is None else TwoStage(detail_steps=detail_steps), "lazy": settings}


def generate(
    context: typer.Context,
    checkpoint: Checkpoint,
    count: Annotated[int, typer.Option("-n", min=1, help="Pictures a prompt.")] = 1,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Strength = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    num_inference_steps: HeadSteps = None,
    final_inference_steps: LateHeadSteps = None,
    schedule: Falling = None,
    two_stage: DetailSteps = None,
    lazy: Laziness = None,
    out: Annotated[Path, typer.Option(help="A folder for pictures or sound and their sheet, or one .png or .wav file.")] = Path(
        "generated"
    ),
    smooth: Annotated[
        bool, typer.Option("--smooth", help="Mix codes instead of drawing one (next_scale only): calmer pictures, less variety.")
    ] = False,
    complete: Annotated[
        Path | None, typer.Option(help="A picture to keep a half of, or a recording to go on from; the rest is drawn.")
    ] = None,
    keep: Annotated[Keep, typer.Option(help="Which half of the picture.")] = Keep.upper,
    trace: Annotated[bool, typer.Option("--trace", help="Also write trace.json and an animation of every step (or spectrogram).")] = False,
    device: Device = "auto",
) -> None:
    """Draw pictures and write them: a file each and a sheet of all, or one file if --out ends in .png."""
    strength = guidance_of(guidance)
    speed = speed_of(schedule, two_stage, lazy)
    if top_p is not None and not 0 < top_p <= 1:
        raise typer.BadParameter(f"it is a probability in (0, 1], not {top_p}", param_hint="--top-p")
    if smooth and trace:
        raise typer.BadParameter(
            "a trace tells which codes were drawn, and smooth sampling mixes codes: leave out one", param_hint="--smooth"
        )
    from jielong.apps.commands.trace import Recorder
    from jielong.system import load

    system = load(checkpoint, chosen_device(device))
    recorder = Recorder(system) if trace else None
    begun = time.perf_counter()
    draw: Callable[..., Pictures | Sounds] = system.generate
    if complete is not None:
        draw = partial(system.complete, _read(complete, system), keep.value)
    pictures = draw(
        **inputs_of(context),
        count=count,
        seed=seed,
        steps=steps,
        guidance=strength,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        num_inference_steps=num_inference_steps,
        final_inference_steps=final_inference_steps,
        smooth=smooth,
        **speed,
        on_step=recorder,
    )
    taken = time.perf_counter() - begun
    _write(pictures, out, recorder, {"checkpoint": checkpoint, "seed": seed})
    say(told(pictures, taken))
    typer.echo(out)


def told(made: Pictures | Sounds, taken: float) -> str:
    """What was made, and in which time; of sound also how long it is, and how many seconds of it a second of computing gave.

    Args:
        made: Pictures or sound.
        taken: Seconds that all of it took.
    """
    from jielong.media.players import Sounds

    some = "s" if len(made) > 1 else ""
    if not isinstance(made, Sounds):
        return f"{len(made)} picture{some}, made in {taken / len(made):.2f} s{' each' if some else ''}"
    heard = sum(clip.tensor.shape[-1] for clip in made) / made.rate
    length = f"{heard:.2f} s{' in all' if some else ''}"
    return f"{len(made)} clip{some} of sound, {length}, made in {taken:.2f} s: {heard / taken:.2f} times real time"


def _read(path: Path, system: System) -> Tensor:
    """A picture as the system's tokenizer takes it, ``(C, H, W)``, or sound, ``(C, T)``."""
    from jielong.media.audio import read_audio, resample, to_channels
    from jielong.media.images import fit, read_image, to_tensor

    media = system.tokenizer.media
    if media.timed:
        waveform, rate = read_audio(path)
        return resample(to_channels(waveform, media.channels), rate, media.sample_rate)
    return to_tensor(fit(read_image(path), media.size[0]), media.channels)


def _write(pictures: Pictures | Sounds, out: Path, recorder: object, made_of: dict[str, object]) -> None:
    """All files, or none."""
    from jielong.apps.commands.trace import Recorder

    single = out.suffix.lower() in (".png", ".webp", ".jpg", ".jpeg", ".wav", ".flac", ".ogg", ".opus", ".mp3")
    with staged(out.parent if single else out) as folder:
        if not single:
            pictures.save(folder)
        sheet = folder / (out.name if single else "sheet.png")
        if single and len(pictures) == 1:
            pictures[0].save(sheet)
        elif len(pictures) > 1 or single:
            pictures.save(sheet)
        if isinstance(recorder, Recorder):
            stem = f"{out.stem}-trace" if single else "trace"
            recorder.write(folder, stem, pictures, made_of)
