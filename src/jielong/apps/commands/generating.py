"""``jielong generate``: pictures from words, classes or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jielong.apps.commands.condition_options import inputs_of
from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.sampling_options import takes_sampling
from jielong.apps.commands.screen import say
from jielong.apps.commands.staging import staged
from jielong.apps.commands.tokenizing import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from jielong.media.pictures import Pictures
    from jielong.media.players import Sounds
    from jielong.system import System

Seed = Annotated[int, typer.Option(help="Item i is the same for the same seed, whatever is generated beside it.")]


class Keep(Enum):
    """Which half of a picture stays."""

    upper = "upper"
    lower = "lower"
    left = "left"
    right = "right"


@takes_sampling()
def generate(
    context: typer.Context,
    checkpoint: Checkpoint,
    count: Annotated[int, typer.Option("-n", min=1, help="Pictures a prompt.")] = 1,
    seed: Seed = 0,
    sampling: dict[str, Any] = {},  # noqa: B006 - read by takes_sampling, never changed
    out: Annotated[Path, typer.Option(help="A folder for pictures or sound and their sheet, or one .png or .wav file.")] = Path(
        "generated"
    ),
    complete: Annotated[
        Path | None, typer.Option(help="A picture to keep a half of, or a recording to go on from; the rest is drawn.")
    ] = None,
    keep: Annotated[Keep, typer.Option(help="Which half of the picture.")] = Keep.upper,
    trace: Annotated[bool, typer.Option("--trace", help="Also write trace.json and an animation of every step (or spectrogram).")] = False,
    device: Device = "auto",
) -> None:
    """Draw pictures and write them: a file each and a sheet of all, or one file if --out ends in .png."""
    if sampling.get("soft_codes") and trace:
        raise typer.BadParameter("a trace shows the codes drawn, and soft codes are mixtures: leave out one", param_hint="--soft-codes")
    from jielong.apps.commands.trace import Recorder
    from jielong.system import load

    system = load(checkpoint, chosen_device(device))
    recorder = Recorder(system) if trace else None
    begun = time.perf_counter()
    draw: Callable[..., Pictures | Sounds] = system.generate
    if complete is not None:
        draw = partial(system.complete, _read(complete, system), keep.value)
    pictures = draw(**inputs_of(context), **sampling, count=count, seed=seed, on_step=recorder)
    taken = time.perf_counter() - begun
    _write(pictures, out, recorder, {"checkpoint": checkpoint, "seed": seed})
    say(summary(pictures, taken))
    typer.echo(out)


def summary(media: Pictures | Sounds, elapsed: float) -> str:
    """How many items were generated in ``elapsed`` seconds; of sound also its duration and the real-time factor."""
    from jielong.media.players import Sounds

    some = "s" if len(media) > 1 else ""
    if not isinstance(media, Sounds):
        return f"{len(media)} picture{some}, made in {elapsed / len(media):.2f} s{' each' if some else ''}"
    duration = sum(clip.tensor.shape[-1] for clip in media) / media.rate
    length = f"{duration:.2f} s{' in all' if some else ''}"
    return f"{len(media)} clip{some} of sound, {length}, made in {elapsed:.2f} s: {duration / elapsed:.2f} times real time"


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
