"""The set `faces-edits`: pairs of faces that differ in one attribute, and the instruction that leads from one to the other."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jielong.core.json import JSON
from jielong.data.table import write_table
from jielong_zoo.builders.faces import captions as words
from jielong_zoo.builders.faces.dataset import Drawn, Progress, held_out, rounded, webp
from jielong_zoo.builders.faces.drawing import Combination, Face, draw
from jielong_zoo.builders.faces.styles import ATTRIBUTES, Attributes
from jielong_zoo.builders.faces.tables import STYLES

COUNT = 3_700
VISIBLE = 4
"""Pixels that an edit changes at least."""
VERBS = {"smiling": "smile", "grinning": "grin", "laughing": "laugh", "smirking": "smirk"}


def edited(face: Face, attribute: str, value: str, colour: str | None = None) -> Face | None:
    """The same face with another value; ``None`` if that would change another attribute or part too.

    Args:
        face: The face.
        attribute: Of :data:`~jielong_zoo.builders.faces.styles.ATTRIBUTES`.
        value: The new value.
        colour: Of a hat that is put on, where the style lets it be chosen.
    """
    style, after = STYLES[face.style], dict(face.attributes)
    after[attribute] = value
    if attribute == "hat":
        after["hat_color"] = colour
    settled = {a: style.choices(a)[0] if each is None and style.choices(a) else each for a, each in after.items()}
    style.settle(settled)  # what is hidden stays hidden, and nothing else appears
    if attribute == "hat" and "hat_color" not in style.colours:
        after["hat_color"] = settled["hat_color"]
    if settled != after or after == face.attributes:
        return None
    one, other = (style.options(each, face.seed) for each in (face.attributes, after))
    if attribute in style.colours and any(one[part] != other[part] for part in one if not part.endswith("Color")):
        return None  # another drawing of the same hair
    return Face(face.style, after, face.seed)


def instructions(attribute: str, before: Attributes, after: Attributes) -> list[str]:
    """English instructions in several wordings."""
    old, new = before[attribute] or "", after[attribute] or ""
    if attribute in ("hair_color", "eye_color", "clothes_color"):
        noun = {"hair_color": "hair", "eye_color": "eyes"}.get(attribute) or garment(after)
        dye = [f"dye the hair {new}"] if attribute == "hair_color" else [f"give this person {new} eyes"] if attribute == "eye_color" else []
        return [f"make the {noun} {new}", f"change the color of the {noun} from {old} to {new}", f"turn the {noun} {new}", *dye]
    if attribute == "hair":
        text = words.coloured(words.HAIR[new], None, 0).removeprefix("hair in ")
        return [f"change the hairstyle to {text}", f"give this person {text}", f"let this person have {text}"]
    if attribute == "skin":
        return [f"make the skin {new}", f"change the skin to {new}", f"give this person {new} skin"]
    if attribute == "expression":
        verb = VERBS.get(new, f"look {words.EXPRESSION[new][0]}")
        return [
            f"let this person {verb}",
            f"make this person {verb}",
            f"change the expression from {words.EXPRESSION[old][0]} to {words.EXPRESSION[new][0]}",
        ]
    if attribute == "eyes":
        verb = {"open": "open", "closed": "close", "winking": "wink with"}[new]
        end = "one eye" if new == "winking" else "both eyes" if old == "winking" else "the eyes"
        return [f"{verb} {end}", f"let this person {verb} {end}", f"make this person {verb} {end}"]
    if attribute == "clothes":
        text = garment(after) if new == "overalls" else words.article(garment(after))
        return [f"change the clothes to {text}", f"let this person wear {text}", f"replace the {garment(before)} by {text}"]
    removed, added = (thing(attribute, each, 0) for each in (before, after))
    if new == "none":
        bare = removed.removeprefix("a ").removeprefix("an ")
        verbs = ("shave off", "remove") if attribute == "facial_hair" else ("take off", "remove")
        return [*(f"{verb} the {bare}" for verb in verbs), f"let this person have no {bare}"]
    if old == "none":
        wear = "have" if attribute == "facial_hair" else "wear"
        return [f"add {added}", f"give this person {added}", f"let this person {wear} {added}"]
    bare = removed.removeprefix("a ").removeprefix("an ")
    return [f"replace the {bare} by {added}", f"swap the {bare} for {added}"]


def garment(a: Attributes) -> str:
    """Clothes in English without their colour."""
    return words.coloured(words.CLOTHES[a["clothes"] or "top"], None, 0)


def thing(attribute: str, a: Attributes, language: int) -> str:
    """A hat, glasses, earrings or facial hair in words; empty if there are none."""
    phrases = words.Phrases(a, language)
    return phrases.worn.get(attribute) or phrases.features.get(attribute, "")


def instruction_zh(attribute: str, before: Attributes, after: Attributes) -> str:
    """A Chinese instruction."""
    new = after[attribute] or ""
    if attribute in ("hair_color", "eye_color", "clothes_color"):
        noun = {"hair_color": "头发", "eye_color": "眼睛", "clothes_color": "衣服"}[attribute]
        return f"把{noun}变成{words.COLOUR_ZH[new]}"
    if attribute == "hair":
        return f"把发型换成{words.coloured(words.HAIR[new], None, 1)}"
    if attribute == "skin":
        return f"把皮肤变成{words.SKIN_ZH[new]}"
    if attribute == "expression":
        return f"让这个人表情变成{words.EXPRESSION[new][1]}"
    if attribute == "eyes":
        return {"open": "让这个人睁开眼睛", "closed": "让这个人闭上眼睛", "winking": "让这个人眨一只眼睛"}[new]
    if attribute == "clothes":
        return f"换上{words.coloured(words.CLOTHES[new], None, 1)}"
    removed, added = (thing(attribute, each, 1) for each in (before, after))
    return f"去掉{removed}" if new == "none" else f"加上{added}" if not removed else f"把{removed}换成{added}"


def pairs(drawn: Sequence[Drawn], count: int) -> Iterator[tuple[Drawn, str, Face]]:
    """Faces of the set, an attribute and the face with another value; attributes of a style in turn, each face once."""
    rng, done = random.Random("faces-edits"), 0
    order = list(drawn)
    rng.shuffle(order)
    turn: Counter[tuple[str, str]] = Counter()
    for each in order:
        face, style = each.face, STYLES[each.face.style]
        choices = [a for a in ATTRIBUTES if a != "hat_color" and face.attributes[a] is not None and len(style.choices(a)) > 1]
        rng.shuffle(choices)
        for attribute in sorted(choices, key=lambda a: turn[face.style, a]):
            values = [value for value in style.choices(attribute) if value != face.attributes[attribute]]
            value = rng.choice(values)
            colour = rng.choice(style.choices("hat_color") or [None]) if attribute == "hat" and value != "none" else None
            after = edited(face, attribute, value, colour)
            if after is not None:
                turn[face.style, attribute] += 1
                done += 1
                yield each, attribute, after
                break
        if done == count:
            return


def write_edits(
    path: Path, faces_file: str, drawn: Sequence[Drawn], modules: Path, size: int, count: int, progress: Progress | None = None
) -> Mapping[str, int]:
    """Write `faces-edits`; returns the number of pairs of each split.

    A pair is held out if the combination of either face is held out of `faces`.

    Args:
        path: The Parquet file.
        faces_file: Name of the file of `faces` beside it, whose items are the sources.
        drawn: The faces of `faces`.
        modules: A ``node_modules`` folder.
        size: Side of the pictures.
        count: How many pairs; fewer where faces are fewer.
        progress: Called with the number of pairs drawn since the last call.
    """
    out: set[Combination] = held_out(each.face for each in drawn)
    chosen = list(pairs(drawn, count))
    table: list[JSON] = []
    seen: set[bytes] = set()
    faces = [after for _, _, after in chosen]
    before = map(rounded, draw([each.face for each, _, _ in chosen], modules, size))
    for (source, attribute, after), old, new in zip(chosen, before, map(rounded, draw(faces, modules, size)), strict=True):
        picture = webp(new)
        if picture in seen or np.any(old != new, -1).sum() < VISIBLE:
            continue
        seen.add(picture)
        texts = instructions(attribute, source.face.attributes, after.attributes)
        random.Random(f"{source.name}/edit").shuffle(texts)
        table.append(
            {
                "image": picture,
                "source": source.name,
                "caption": texts[0],
                "captions": texts,
                "caption_zh": instruction_zh(attribute, source.face.attributes, after.attributes),
                "target_caption": words.captions(after.style, after.attributes, after.seed)[0],
                "attribute": attribute,
                "before": source.face.attributes[attribute],
                "after": after.attributes[attribute],
                "style": after.style,
                "name": source.name,
                "split": "heldout" if {source.face.combination, after.combination} & out else "train",
            }
        )
        if progress is not None:
            progress(1)
    write_table(path, table, item="image", caption="caption", label="attribute", key=["name"], size=size, sources=faces_file)
    return Counter(str(row["split"]) for row in table)
