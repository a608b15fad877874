"""``jielong data``: list, inspect and build data sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from jielong.apps.commands import curating
from jielong.apps.commands.screen import notes, results, table
from jielong.config.catalogue import SETS
from jielong.core.json import to_text
from jielong.core.storage import StorageError, check_room


@dataclass(frozen=True)
class Sides:
    """Height and width."""

    height: int
    width: int

    @classmethod
    def read(cls, text: str) -> Sides:
        """A side, or height and width with a comma between; raises ``BadParameter``."""
        numbers = [int(side) if side.strip().isdecimal() else 0 for side in text.split(",")]
        if len(numbers) > 2 or min(numbers) < 1:
            raise typer.BadParameter(f"{text!r} is neither a side, such as 64, nor height,width, such as 48,64")
        return cls(numbers[0], numbers[-1])


app = typer.Typer(help="List, inspect and build data sets.", no_args_is_help=True)


@app.command("list")
def list_sets() -> None:
    """List the built-in data sets and whether they are installed."""
    from jielong.data.opening import open_source
    from jielong.media.kinds.base import kind_of

    rows = []
    for name, (_, summary) in SETS.items():
        try:
            source = open_source(name)
        except (ValueError, OSError) as error:
            rows.append((name, "not installed", str(error)))
        else:
            rows.append((name, f"{len(source.items):,} {kind_of(source.kind).noun[1]}", summary))
    results.print(table("Data sets", ("name", "state", "what it is"), rows))
    results.print("Your data: a folder of files, .tar shards or .parquet files; see: jielong data inspect PATH", highlight=False)


@app.command("inspect")
def inspect_set(
    name: Annotated[str, typer.Argument(metavar="SET", help="A built-in set's name, or a path; several with commas between.")],
    size: Annotated[
        Sides | None,
        typer.Option(parser=Sides.read, metavar="SIDE", help="Side of pictures in pixels, or height,width; the data set's by default."),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Kind of media, image or audio; by default that with the most files.")] = None,
    sample_rate: Annotated[int | None, typer.Option(help="Samples per second of sound.")] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds of a clip; longer and shorter ones are counted.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Largest number of decoded items; 0 decodes all.")] = 5000,
    sheet: Annotated[Path | None, typer.Option(help="Write a sample grid of decoded items here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only one JSON object.")] = False,
) -> None:
    """Report counts, sizes, captions, classes and unreadable files."""
    from PIL import Image

    from jielong.data.inspecting import inspect
    from jielong.media.images import encode_as

    sides = None if size is None else size.height if size.height == size.width else [size.height, size.width]
    keys = {"size": sides, "kind": kind, "sample_rate": sample_rate, "duration": duration}
    if sheet is not None:
        try:
            encode_as(sheet.suffix or ".png", Image.new("RGB", (1, 1)))
        except ValueError as error:
            raise typer.BadParameter(f"{sheet}: {error}", param_hint="--sheet") from None
        with _named("sheet"):
            check_room(sheet, 0)
    report = inspect(name, limit or None, **{key: value for key, value in keys.items() if value is not None})
    if sheet is not None:
        with _named("sheet"):
            report.write_sheet(sheet)
    if as_json:
        typer.echo(to_text(report.as_dict()))
    else:
        results.print(report)


_LEAST_FACES = 100


@contextmanager
def _named(option: str) -> Iterator[None]:
    """Name another option than ``--out`` where a file cannot be written."""
    try:
        yield
    except StorageError as error:
        error.option = option
        raise


@app.command("build")
def build(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SET",
            help="avatars, digits, emoji-full, faces, icons, missions, prompts, sounds, spoken-words, strokes or synthetic-speech.",
        ),
    ],
    packages: Annotated[
        Path | None, typer.Option(help="A folder with the sources (node_modules, .deb files, or an icon theme); downloaded by default.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="synthetic-speech: duration in minutes.")] = None,
    by: Annotated[list[str] | None, typer.Option(help="synthetic-speech: a synthesizer, espeak, piper or kokoro; repeatable.")] = None,
    texts: Annotated[Path | None, typer.Option(help="synthetic-speech: a file of sentences, one per line.")] = None,
    size: Annotated[int | None, typer.Option(min=16, max=1024, help="faces, icons: side of the pictures in pixels; 64 by default.")] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000,
            help="faces: pictures, at least 100, 24,000 by default; avatars: clips, 640 by default; missions: clips, 5,000 by default.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="missions: seed of the random numbers; 0 by default.")] = None,
    pairs: Annotated[int | None, typer.Option(min=10, max=1_000_000, help="faces: pairs of faces-edits; 3,700 by default.")] = None,
    strokes: Annotated[int | None, typer.Option(min=1, max=15, help="strokes: most strokes of a character; 7 by default.")] = None,
    theme: Annotated[str | None, typer.Option(help="icons: the theme, oxygen or gnome; oxygen by default.")] = None,
) -> None:
    """Build a data set into the user's cache."""
    from jielong_zoo.builders.avatars.dataset import Avatars
    from jielong_zoo.builders.building import AVATARS, FACES, ICONS, MISSIONS, Speech, build_set
    from jielong_zoo.builders.faces.build import Faces
    from jielong_zoo.builders.icons import Icons
    from jielong_zoo.builders.missions.build import Missions
    from jielong_zoo.builders.strokes.dataset import Strokes
    from jielong_zoo.builders.synthetic_speech import MINUTES

    speech = None
    if minutes is not None or by or texts is not None:
        speech = Speech(MINUTES if minutes is None else minutes, tuple(by or ("espeak",)), texts)
    icons = Icons(theme or Icons.theme, size or Icons.size) if name == ICONS or theme is not None else None
    missions = None
    if seed is not None or name == MISSIONS:
        missions, count = Missions(Missions.count if count is None else count, seed or 0), None
    if name == FACES and count is not None and count < _LEAST_FACES:
        raise typer.BadParameter(f"a set of faces has {_LEAST_FACES} pictures at least, not {count}", param_hint="--count")
    faces = None
    avatars = Avatars(count) if name == AVATARS and count is not None else None
    if (count is not None and avatars is None) or pairs is not None or (size is not None and icons is None):
        faces = Faces(size or Faces.size, count or Faces.count, pairs or Faces.pairs)
    with Progress(console=notes, transient=True) as bar:
        task = bar.add_task(f"building {name}", total=None)
        written = None if strokes is None else Strokes(strokes)
        path = build_set(name, packages, lambda done: bar.update(task, completed=done), speech, faces, icons, written, avatars, missions)
    typer.echo(path)


app.command("curate")(curating.curate)
app.command("rules")(curating.rules)
