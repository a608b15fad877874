"""``jielong dub``: let the face of a clip say a text in the time of the clip."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.generating import Seed
from jielong.apps.commands.screen import say


def dub(
    clip: Annotated[Path, typer.Argument(help="The clip, whose first frame shows the face; of 6 s at most for indextts2-speech.")],
    text: Annotated[str, typer.Option(help="What the face says.")],
    out: Annotated[Path, typer.Option(help="The file that is written, with sound: .mp4, .webm, .mkv, .mov, .m4v.")],
    avatar: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model that draws a face from a first frame and a sound, such as runs/avatar.")
    ] = None,
    voice: Annotated[Path | None, typer.Option(help="Recording of the voice; by default the clip's own sound, where it has one.")] = None,
    speaker: Annotated[str, typer.Option(metavar="MODEL", help="The model that speaks for a given duration.")] = "indextts2-speech",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Dub a clip: speech exactly as long as it, and the face of its first frame saying it."""
    from jielong.media.soundtrack import check_holds_sound
    from jielong.system import dubbing, load

    if avatar is None:
        raise typer.BadParameter(
            "no model of talking faces is shipped: train one with `jielong train avatar-tokenizer --out runs/avatar-tokenizer` and "
            "`jielong train avatar --out runs/avatar`, and give --avatar runs/avatar",
            param_hint="--avatar",
        )
    try:
        check_holds_sound(out.suffix)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--out") from None
    if not clip.exists():
        raise typer.BadParameter(f"there is no file {clip}", param_hint="CLIP")
    if out.exists() and out.samefile(clip):
        raise typer.BadParameter("it is the clip itself: write to another file", param_hint="--out")
    lines = dubbing.Lines.of(clip, text, voice)
    chosen = chosen_device(device)
    face = load(avatar, chosen)
    dubbing.check_face(face)
    says = load(speaker, chosen)
    dubbing.check_speaker(says, lines)
    say(dubbing.describe(face, lines))
    started = time.perf_counter()
    dubbed = dubbing.dub(lines, says, face, seed)
    dubbed.save(out)
    say(f"{dubbed.tensor.shape[1]} frames with sound, generated in {time.perf_counter() - started:.2f} s")
    typer.echo(out)
