"""``jielong edit``: change a part of a picture, or all of it in part."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from jielong.apps.commands.adapter_options import Adapters
from jielong.apps.commands.condition_options import inputs_of
from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.generating import Seed, provenance
from jielong.apps.commands.outputs import Out, output_of
from jielong.apps.commands.sampling_options import takes_sampling
from jielong.apps.commands.screen import say
from jielong.apps.commands.tokenizing import Checkpoint


class Outside(Enum):
    """Pixels outside the mask."""

    original = "original"
    decoded = "decoded"
    drawn = "drawn"


@takes_sampling("soft_codes", "frames", "window", "lazy_refresh", "lazy_share")
def edit(
    context: typer.Context,
    checkpoint: Checkpoint,
    image: Annotated[Path, typer.Argument(help="The picture.")],
    mask: Annotated[Path | None, typer.Option(help="A picture of its size, white where it may change.")] = None,
    region: Annotated[str | None, typer.Option(metavar="X,Y,W,H", help="Left, top, width and height in pixels of what may change.")] = None,
    outpaint: Annotated[
        str | None, typer.Option(metavar="L,R,U,D", help="Pixels to add on the left, on the right, above and below; negative ones cut.")
    ] = None,
    instruction: Annotated[
        list[str] | None, typer.Option(help="What to do, such as 'make the hair red', for models trained on pairs; repeatable.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How far it may differ, above 0 to 1; by default 1 inside a mask, and 0.6 or 0.8 without one.")
    ] = None,
    outside: Annotated[
        Outside, typer.Option(help="Pixels outside the mask: the original's, the original's as decoded from tokens, or as drawn.")
    ] = Outside.original,
    count: Annotated[int, typer.Option("-n", min=1, help="Pictures per prompt.")] = 1,
    seed: Seed = 0,
    sampling: dict[str, Any] = {},  # noqa: B006 - read by takes_sampling, never changed
    out: Out = Path("edited"),
    adapter: Adapters = None,
    device: Device = "auto",
) -> None:
    """Edit a picture: redraw a masked region, widen it, or change all of it towards a caption."""
    from jielong.system import load
    from jielong.system.editing import Edit, EditSettings

    for path, option in ((image, "IMAGE"), (mask, "--mask")):
        if path is not None and not path.is_file():
            raise typer.BadParameter(f"there is no file {path}", param_hint=option)
    settings = EditSettings(mask, _numbers(region, "--region"), _numbers(outpaint, "--outpaint"), strength, outside.value, instruction)
    system, inputs = load(checkpoint, chosen_device(device), adapters=adapter or ()), inputs_of(context)
    output = output_of(out, system.tokenizer.media)
    planned = Edit.of(system, image, settings, bool(inputs))
    if "picture" in inputs:
        raise typer.BadParameter("the picture to edit is IMAGE: leave out --picture", param_hint="--picture")
    say(planned.describe())
    started = time.perf_counter()
    items = planned.draw(**inputs, **sampling, count=count, seed=seed)
    taken = time.perf_counter() - started
    given = {"image": image, "mask": mask, "region": region, "outpaint": outpaint, "strength": strength, "instruction": instruction}
    changes = {name: value if isinstance(value, float | list) else str(value) for name, value in given.items() if value is not None}
    adapters = {"adapters": adapter} if adapter else {}
    edited = {**changes, "outside": outside.value}
    origin = {"checkpoint": checkpoint, **adapters, "seed": seed, "edit": edited, **provenance(inputs, sampling)}
    notice = output.write(items, origin)
    say(items.summary(taken))
    if notice:
        say(notice)
    typer.echo(out)


def _numbers(text: str | None, option: str) -> list[int] | None:
    """Whole numbers between commas."""
    try:
        return None if text is None else [int(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"write whole numbers of pixels between commas, such as 8,0,48,28, not {text!r}", param_hint=option
        ) from None
