"""Emoji sets: drawings with names as one Parquet file, and a split that measures composition."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jielong.core.files import write_bytes
from jielong.data.splits import fraction
from jielong.media.images import encode, fit
from jielong.media.reading.pictures import read_image

SIZE = 64
HELDOUT_SHARE = 0.05
TONES = {1: "light", 2: "medium-light", 3: "medium", 4: "medium-dark", 5: "dark"}
STYLES = ("Noto", "Twemoji", "OpenMoji", "Fluent 3D")

SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("caption", pa.string()),
        ("label", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("style", pa.string()),
        ("group", pa.string()),
        ("subgroup", pa.string()),
        ("skin_tone", pa.string()),
        ("caption_zh", pa.string()),
        ("hexcode", pa.string()),
        ("split", pa.string()),
    ],
    # Roles of the columns, read when the file is opened.
    metadata={"jielong": json.dumps({"caption": "caption", "label": "group", "key": ["hexcode", "style"], "size": SIZE})},
)


@dataclass(frozen=True)
class Concept:
    """An emoji independent of its style."""

    hexcode: str
    label: str
    label_zh: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    skin_tone: str


@dataclass(frozen=True)
class Drawing:
    """One emoji in one style; ``image`` is a lossless 64 x 64 RGB WebP."""

    concept: Concept
    style: str
    image: bytes = field(repr=False)

    @property
    def caption(self) -> str:
        """English label and style."""
        return f"{self.concept.label}, {self.style} style"


def concept_key(hexcode: str) -> str:
    """Code points without the variation selector FE0F, which not all sets write."""
    return "-".join(point for point in hexcode.upper().split("-") if point != "FE0F")


def read_concepts(emojibase: Path) -> dict[str, Concept]:
    """All emoji of the npm package ``emojibase-data`` by :func:`concept_key`, one concept per skin tone."""
    names = json.loads((emojibase / "meta" / "groups.json").read_text("utf-8"))
    chinese = {concept_key(entry["hexcode"]): entry for entry, _ in _entries(emojibase / "zh" / "data.json")}
    concepts = {}
    for entry, parent in _entries(emojibase / "en" / "data.json"):
        key = concept_key(entry["hexcode"])
        tone = entry.get("tone", [])
        concepts[key] = Concept(
            hexcode=key,
            label=entry["label"],
            label_zh=chinese[key]["label"] if key in chinese else "",
            tags=tuple(parent.get("tags", [])),
            group=names["groups"].get(str(entry.get("group")), ""),
            subgroup=names["subgroups"].get(str(entry.get("subgroup")), ""),
            skin_tone=", ".join(TONES[t] for t in (tone if isinstance(tone, list) else [tone])),
        )
    return concepts


def _entries(file: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for entry in json.loads(file.read_text("utf-8")):
        for variant in (entry, *entry.get("skins", [])):
            yield variant, entry


def read_sheet_package(folder: Path, sheet: str, style: str, concepts: dict[str, Concept]) -> Iterator[Drawing]:
    """Drawings of an npm package ``emoji-datasource-<sheet>``, except those taken from another set."""
    for entry in json.loads((folder / "emoji.json").read_text("utf-8")):
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            concept = concepts.get(concept_key(variant["unified"]))
            if concept is not None and variant[f"has_img_{sheet}"]:
                yield Drawing(concept, style, encode_drawing((folder / "img" / sheet / str(SIZE) / variant["image"]).read_bytes()))


def encode_drawing(data: bytes) -> bytes:
    """A drawing of any size on white as a lossless 64 x 64 WebP."""
    return encode(fit(read_image(data), (SIZE, SIZE)), "WEBP", lossless=True, quality=75, method=6)


def split_of(drawings: Iterable[Drawing]) -> list[str]:
    """``train`` or ``heldout`` of each drawing: about 5 % of the (concept, style) pairs are held out, to measure composition.

    Every held-out concept is in the training split in another style; at most one style of a concept is held out. A drawing that equals
    that of another concept of the same style is never held out, to avoid leakage. The split is a hash of the pair, so it does not change
    when the set grows.
    """
    drawings = list(drawings)
    styles: dict[str, set[str]] = {}
    copies: dict[tuple[str, bytes], int] = {}
    for drawing in drawings:
        styles.setdefault(drawing.concept.hexcode, set()).add(drawing.style)
        copies[drawing.style, drawing.image] = copies.get((drawing.style, drawing.image), 0) + 1
    order = {style: index for index, style in enumerate(STYLES)}
    heldout: dict[str, str] = {}
    for drawing in sorted(drawings, key=lambda d: order[d.style]):
        key = drawing.concept.hexcode
        unique = copies[drawing.style, drawing.image] == 1
        if unique and len(styles[key]) > 1 and key not in heldout and fraction(f"{key}|{drawing.style}") < HELDOUT_SHARE:
            heldout[key] = drawing.style
    return ["heldout" if heldout.get(d.concept.hexcode) == d.style else "train" for d in drawings]


def write_set(path: Path, drawings: Iterable[Drawing]) -> int:
    """Write drawings as Parquet, sorted; the same drawings give the same bytes. Returns the number of rows."""
    drawings = sorted(drawings, key=lambda d: (d.concept.hexcode, STYLES.index(d.style)))
    splits = split_of(drawings)
    rows = [
        {
            "image": d.image,
            "caption": d.caption,
            "label": d.concept.label,
            "tags": list(d.concept.tags),
            "style": d.style,
            "group": d.concept.group,
            "subgroup": d.concept.subgroup,
            "skin_tone": d.concept.skin_tone,
            "caption_zh": d.concept.label_zh,
            "hexcode": d.concept.hexcode,
            "split": split,
        }
        for d, split in zip(drawings, splits, strict=True)
    ]
    buffer = io.BytesIO()
    compression = {name: "none" if name == "image" else "zstd" for name in SCHEMA.names}
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, buffer, compression=compression, use_dictionary=["style", "group", "subgroup", "skin_tone", "split"])
    write_bytes(path, buffer.getvalue())
    return len(rows)
