"""The option ``--out`` of commands that write media."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.media.output import Output

Out = Annotated[
    Path,
    typer.Option(
        help="Output folder, or a file whose ending is its format: .png, .jpg, .webp; .wav, .flac, .mp3, .ogg. The last run's are replaced."
    ),
]


def output_of(out: Path, medium: Medium) -> Output:
    """The place that ``--out`` names, checked before the work.

    Raises:
        typer.BadParameter: if results cannot be written there in that format.
        StorageError: if nothing can be written there.
    """
    from jielong.media.output import Output, OutputError
    from jielong.media.reading.libraries import MissingLibraryError

    try:
        return Output.of(out, medium)
    except (OutputError, MissingLibraryError) as error:
        raise typer.BadParameter(str(error), param_hint="--out") from None
