"""The table of the set `strokes`: each character written at two paces."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from jielong.core.files import write_bytes
from jielong.core.json import JSON
from jielong.data.built import BuildError, built_path
from jielong.data.splits import fraction
from jielong.data.table import write_table
from jielong_zoo.builders.clips import animation
from jielong_zoo.builders.npm import install
from jielong_zoo.builders.strokes.drawing import SUPERSAMPLING, Points, Stroke, allotted, arrivals, read_strokes, written

PACKAGE = "hanzi-writer-data@2.0.1"
SIZE, FRAMES, RATE = 64, 17, 8.0
"""The first frame is blank, and the character is finished in the 16th, so that a model of 16 frames reads it whole."""
PACES = {"even": 15, "quick": 9}
"""Frames in which the strokes are drawn; a character with more strokes is not written at that pace."""
UNSEEN = 0.05
"""Share of the characters that training does not see, and of those that it does not see at one of the paces."""
DATA = Path(__file__).parents[2] / "data"
LICENCE, TEXT = DATA / "LICENSE-strokes.md", DATA / "ARPHICPL.TXT"
"""Shipped with the set."""
TERMS = {
    "licence": "Arphic Public License",
    "attribution": "clips from outlines (c) 1999 Arphic Technology Co., Ltd., by Make Me a Hanzi and Hanzi Writer, changed 2026",
}
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Strokes:
    """How `strokes` is built.

    Attributes:
        most: Strokes of a character at most.
    """

    most: int = 7

    @property
    def name(self) -> str:
        """Of the set; another number gives another set, so that the shipped one stays what it is."""
        return "strokes" if self.most == Strokes.most else f"strokes-{self.most}"


def common_characters() -> list[str]:
    """The 3,755 frequent characters of the standard GB 2312 (its first level), in the order of their code points."""
    found = []
    for row in range(16, 56):
        for column in range(1, 95):
            code = bytes((0xA0 + row, 0xA0 + column))
            found.append(code.decode("gb2312", errors="ignore"))  # five cells at the end are empty
    return sorted(filter(None, found))


def captions(character: str, pace: str) -> tuple[list[str], list[str]]:
    """English and Chinese captions."""
    if pace == "quick":
        return [f"write {character} quickly", f"quickly write the character {character}"], [f"快写{character}", f"快速写一个{character}字"]
    return [f"write {character}", f"write the character {character}"], [f"写{character}", f"写一个{character}字"]


def held_out(character: str, paces: Iterable[str]) -> dict[str, str]:
    """What training does not see, by pace: the ``character``, or a seen one at this ``pace``; empty if it sees all.

    Unseen characters measure whether a model that is given the finished character finds the order of its strokes; what a text alone calls
    for cannot be known of them, so that models of texts are measured on seen characters at a pace at which they were not seen.
    """
    paces, place = list(paces), fraction(f"strokes/{character}")
    if place < UNSEEN:
        return dict.fromkeys(paces, "character")
    if place < 2 * UNSEEN and len(paces) > 1:
        return {paces[int(fraction(f"strokes/{character}/pace") * len(paces))]: "pace"}
    return {}


def rows(folder: Path, most: int, progress: Progress | None = None) -> Iterator[JSON]:
    """Rows of `strokes`.

    Args:
        folder: The unpacked package.
        most: Strokes of a character at most.
        progress: Called with the number of clips so far.

    Raises:
        BuildError: if the folder holds no characters.
    """
    done = 0
    for character in common_characters():
        path = folder / f"{character}.json"
        if not path.is_file():
            raise BuildError(f"{path} is missing; the unpacked npm package {PACKAGE} is needed")
        strokes = read_strokes(path)
        if len(strokes) > most:
            continue
        reached = [arrivals(stroke, SIZE * SUPERSAMPLING) for stroke in strokes]
        paces = [pace for pace, frames in PACES.items() if len(strokes) <= frames]
        unseen = held_out(character, paces)
        for pace in paces:
            done += 1
            yield row(character, strokes, reached, pace, unseen.get(pace, ""))
            if progress is not None:
                progress(done)


def row(character: str, strokes: list[Stroke], reached: list[Points], pace: str, unseen: str) -> JSON:
    """A clip and its words; ``ends`` are the seconds at which each stroke is complete."""
    counts = allotted([stroke.length for stroke in strokes], PACES[pace])
    english, chinese = captions(character, pace)
    return {
        "video": animation(written(reached, counts, FRAMES), RATE),
        "caption": english[0],
        "captions": english,
        "caption_zh": chinese[0],
        "captions_zh": chinese,
        "character": character,
        "strokes": len(strokes),
        "pace": pace,
        "ends": [frame / RATE for frame in accumulate(counts)],
        "held_out": unseen,
        **TERMS,
        "name": f"{character}-{pace}",
        "split": "heldout" if unseen else "train",
    }


def build_strokes(packages: Path | None, progress: Progress | None, settings: Strokes) -> Path:
    """Draw the set into the user's cache, its licence beside it.

    Raises:
        BuildError: if the package cannot be downloaded or lacks characters, or characters have more strokes than frames.
    """
    if settings.most > max(PACES.values()):
        raise BuildError(f"characters of at most {max(PACES.values())} strokes can be drawn, one a frame, not of {settings.most}")
    target = built_path(settings.name)
    with tempfile.TemporaryDirectory() as scratch:
        table = list(rows((packages or install([PACKAGE], Path(scratch))) / PACKAGE.partition("@")[0], settings.most, progress))
    write_bytes(target.with_name(f"LICENSE-{settings.name}.md"), LICENCE.read_bytes())
    write_bytes(target.with_name(TEXT.name), TEXT.read_bytes())
    write_strokes(target, table)
    return target


def write_strokes(path: Path, table: list[JSON]) -> None:
    """Write the rows, with the name of their judge."""
    write_table(
        path,
        table,
        item="video",
        caption="caption",
        label="character",
        key=["name"],
        size=SIZE,
        frames=FRAMES,
        frame_rate=RATE,
        channels=1,
        judge="strokes",
    )
