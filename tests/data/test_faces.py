"""The set `faces`: captions are true of attributes and of pixels, and held-out combinations are new."""

import io
import random
import shutil
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.data.built import BuildError, built_path
from jielong.data.opening import open_data
from jielong.data.sets import MediaSet
from jielong.data.source import DataError
from jielong_zoo.builders.building import build_set
from jielong_zoo.builders.faces import captions as words
from jielong_zoo.builders.faces import dataset
from jielong_zoo.builders.faces.build import Faces
from jielong_zoo.builders.faces.colours import CLOTHES, COMMON, EYES, HAIR, SKIN, lab, nearest_word, of_hex
from jielong_zoo.builders.faces.dataset import held_out
from jielong_zoo.builders.faces.drawing import Face, draw
from jielong_zoo.builders.faces.edits import edited, instructions
from jielong_zoo.builders.faces.styles import ATTRIBUTES
from jielong_zoo.builders.faces.tables import STYLES


@pytest.fixture(scope="module")
def faces() -> MediaSet:
    return open_data("faces")


@pytest.fixture(scope="module")
def edits() -> MediaSet:
    return open_data("faces-edits")


def some(count: int, style: str | None = None) -> list[Face]:
    styles = list(STYLES) if style is None else [style]
    seeds = [f"{styles[n % len(styles)]}-{n}" for n in range(count)]
    return [Face(seed.rpartition("-")[0], STYLES[seed.rpartition("-")[0]].draw(random.Random(seed)), seed) for seed in seeds]


@pytest.mark.parametrize("table", [HAIR, CLOTHES, EYES])
def test_every_colour_of_a_palette_is_nearest_to_its_own_name(table):
    for name, codes in table.items():
        assert [nearest_word(of_hex(code)) for code in codes] == [name] * len(codes)


def test_skin_has_three_tones_that_are_nearest_to_their_own_names():
    for name, codes in SKIN.items():
        others = {other: of for other, of in SKIN.items() if other != name}
        named = lab(np.stack([of_hex(code) for code in codes]))
        rest = lab(np.stack([of_hex(code) for of in others.values() for code in of]))
        assert np.linalg.norm(named[0] - named[1]) < np.linalg.norm(named[:, None] - rest[None], axis=-1).min()


def test_lab_has_the_values_of_cie():
    assert lab(of_hex("ffffff")) == pytest.approx([100, 0, 0], abs=0.02)
    assert lab(of_hex("ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    assert lab(of_hex("0000ff")) == pytest.approx([32.30, 79.19, -107.86], abs=0.05)


def wording(attribute: str, value: str, face: Face) -> str:
    """The words that a caption must hold for a value."""
    a, tables = face.attributes, {"hat": words.HAT, "glasses": words.GLASSES, "facial_hair": words.FACIAL_HAIR, "clothes": words.CLOTHES}
    pair = {**tables, "hair": words.HAIR, "earrings": words.EARRINGS, "expression": words.EXPRESSION, "eyes": words.EYES}.get(attribute)
    if pair is None:
        return {"skin": f"{value} skin", "eye_color": f"{value} eyes"}.get(attribute, value)
    colour = a.get({"hair": "hair_color", "hat": "hat_color", "clothes": "clothes_color"}.get(attribute, ""), None)
    return words.coloured(pair[value], colour, 0).removeprefix("a ")


def test_captions_name_everything_visible_and_nothing_else():
    silent = {("eyes", "open")}
    for face in some(400):
        *full, short = words.captions(face.style, face.attributes, face.seed)
        assert len(set(full)) == 4
        for attribute, value in face.attributes.items():
            if value not in (None, "none") and (attribute, value) not in silent:
                assert all(wording(attribute, value, face) in text for text in full), (attribute, value, full)
        for text in (*full, short):
            assert STYLES[face.style].title in text
            assert not [word for word in ("variant", "None", "none", "  ", "{", "a a", "a o") if word in f"{text} "], text
        absent = {"glasses": "glasses", "earrings": "earrings", "facial_hair": "beard"}
        for attribute, word in absent.items():
            if face.attributes[attribute] in (None, "none"):
                assert not any(word in text for text in (*full, short))
        chinese = words.captions_zh(face.style, face.attributes, face.seed)
        assert len(set(chinese)) == 2
        for colour in ("hair_color", "clothes_color", "hat_color"):
            if (value := face.attributes[colour]) is not None:
                assert all(words.COLOUR_ZH[value] in text for text in chinese)


def test_a_face_is_drawn_by_its_seed_and_hidden_things_are_not_named():
    assert some(50) == some(50)
    for face in some(600):
        a = face.attributes
        assert list(a) == list(ATTRIBUTES)
        assert (a["hair_color"] is None) or a["hair"] is not None
        assert (a["hat_color"] is None) == (a["hat"] in (None, "none"))
        settled = dict(a)
        STYLES[face.style].settle(settled)
        assert settled == a
        if face.style == "pixel-art" and a["glasses"] == "sunglasses":
            assert a["eye_color"] is None


def test_the_options_ask_for_one_variant_of_each_part_and_for_no_part_that_is_absent():
    for face in some(300):
        options = STYLES[face.style].options(face.attributes, face.seed)
        assert all(len(value) == 1 for value in options.values() if isinstance(value, list))
        parts = {"glasses": ("glasses", "accessories"), "facial_hair": ("facialHair", "beard")}
        for attribute, names in parts.items():
            probabilities = [options.get(f"{name}Probability") for name in names if f"{name}Probability" in options]
            if face.attributes[attribute] == "none" and attribute == "facial_hair":
                assert probabilities == [0]


def test_a_style_with_too_few_different_faces_ends_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "draw", lambda faces, modules, size: (np.zeros((size, size, 3), np.uint8) for _ in faces))
    monkeypatch.setattr(dataset, "MOST_ROUNDS", 3)
    with pytest.raises(BuildError, match=r"4 seeds of the style toon-head give 1 different faces, not 2"):
        list(dataset.drawn_faces(tmp_path, 2 * len(STYLES), 8))


def test_held_out_combinations_leave_every_hair_and_colour_in_training():
    people = some(6000)
    out = held_out(people)
    train = [face for face in people if face.combination not in out]
    assert 0.045 < 1 - len(train) / len(people) < 0.06
    seen: defaultdict[tuple[str, str], set[str | None]] = defaultdict(set)
    for face in train:
        for attribute, value in face.attributes.items():
            seen[face.style, attribute].add(value)
    for face in people:
        assert all(value in seen[face.style, attribute] for attribute, value in face.attributes.items())


def test_the_shipped_split_holds_out_new_combinations_alone(faces):
    columns, assigned = faces.columns, [item.split for item in faces.source.items]
    assert len(faces) == 24_000
    assert Counter(columns["style"]) == dict.fromkeys(STYLES, 4800)
    out = defaultdict(set)
    seen = defaultdict(set)
    for row, split in enumerate(assigned):
        kind = columns["hair"][row] or columns["hat"][row]
        colour = columns["hair_color"][row] if columns["hair"][row] is not None else columns["hat_color"][row]
        out[split].add((columns["style"][row], kind, colour))
        for attribute in ATTRIBUTES:
            seen[split, columns["style"][row]].add((attribute, columns[attribute][row]))
    assert 0.045 < assigned.count("heldout") / len(faces) < 0.055
    assert not out["train"] & out["heldout"]
    for style in STYLES:
        assert seen["heldout", style] <= seen["train", style]


def test_no_picture_is_there_twice(faces):
    pictures = [faces.source.blob(row) for row in range(len(faces))]
    assert len(set(pictures)) == len(pictures)


def test_pictures_show_the_colours_that_captions_name(faces):
    assert faces.medium.size == (64, 64)
    rows = range(0, len(faces), 97)
    wrong = []
    for row in rows:
        with Image.open(io.BytesIO(faces.source.blob(row))) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        found, number = np.unique(pixels, axis=0, return_counts=True)
        for attribute, table in (("hair_color", HAIR), ("clothes_color", CLOTHES), ("hat_color", CLOTHES)):
            name = faces.columns[attribute][row]
            if name is not None:
                shades = lab(np.stack([of_hex(code) for code in table[name]]))
                near = np.linalg.norm(lab(found)[:, None] - shades[None], axis=-1).min(1) < 20
                if number[near].sum() < 30:
                    wrong.append((faces.keys[row], attribute, name))
    assert not wrong


def test_edits_change_one_attribute(faces, edits):
    at = dict(zip(faces.keys, range(len(faces)), strict=True))
    columns = edits.columns
    assert 3_500 < len(edits) <= 4_000
    assert set(columns["attribute"]) == set(ATTRIBUTES) - {"hat_color"}
    assert len({edits.source.blob(row) for row in range(len(edits))}) == len(edits)
    for row in range(0, len(edits), 41):
        source = at[edits.keys[row]]
        assert columns["source"][row] == faces.source.blob(source)
        assert faces.columns[columns["attribute"][row]][source] == columns["before"][row] != columns["after"][row]
        assert edits.captions[row] in columns["captions"][row]
        if faces.source.items[source].split == "heldout":
            assert edits.source.items[row].split == "heldout"


def test_an_edit_that_would_change_two_attributes_is_none():
    bald = next(face for face in some(2000, "micah") if face.attributes["hair"] == "bald")
    assert edited(bald, "hair", "quiff") is None  # which has a colour
    assert edited(bald, "hat", "turban", "red") is None  # which hides the head
    face = next(face for face in some(200, "micah") if face.attributes["glasses"] == "none")
    after = edited(face, "glasses", "round glasses")
    assert after is not None
    changed = {name for name in ATTRIBUTES if after.attributes[name] != face.attributes[name]}
    assert changed == {"glasses"}
    one, other = (STYLES["micah"].options(each.attributes, each.seed) for each in (face, after))
    assert {part for part in other if one.get(part) != other[part]} == {"glasses", "glassesProbability"}
    assert "add round glasses" in instructions("glasses", face.attributes, after.attributes)
    assert "give this person an undercut" in instructions("hair", {"hair": "bun"}, {"hair": "undercut"})
    assert "remove the round glasses" in instructions("glasses", after.attributes, face.attributes)


def packages(folder):
    """A `node_modules` whose avatars are their options, and whose renderer colours a picture by a hash of them."""
    for name in ("core", *STYLES):
        library = folder / "@dicebear" / name / "lib"
        library.mkdir(parents=True)
        (library.parent / "package.json").write_text('{"type": "module"}')
        (library / "index.js").write_text("export const createAvatar = (style, options) => JSON.stringify(options);\n")
    renderer = folder / "@resvg" / "resvg-js"
    renderer.mkdir(parents=True)
    (renderer / "index.js").write_text(
        "const { createHash } = require('node:crypto');\n"
        "exports.Resvg = class { constructor(svg, o) { this.svg = svg; this.size = o.fitTo.value; }\n"
        "  render() { const h = createHash('sha256').update(this.svg).digest(), n = this.size ** 2 * 4;\n"
        "    return { pixels: Buffer.from(Array.from({ length: n }, (_, i) => h[Math.floor(i / 4) % 32])) }; } };\n"
    )
    return folder


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_building_gives_the_same_bytes_twice_and_another_set_for_another_size(tmp_path, monkeypatch):
    modules, counted = packages(tmp_path / "node_modules"), []
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "one"))
    path = build_set("faces", modules, counted.append, faces=Faces(size=16, count=110))
    assert path == built_path("faces-16-110")
    assert "Micah Lanier" in path.with_name("LICENSE-faces-16-110.md").read_text("utf-8")
    assert counted[109] == 110
    found = open_data(path)
    assert (len(found), found.medium.size) == (110, (16, 16))
    assert {item.split for item in found.source.items} == {"train", "heldout"}
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "two"))
    again = build_set("faces", modules, faces=Faces(size=16, count=110))
    assert again.read_bytes() == path.read_bytes()
    build_set("faces", modules, faces=Faces(size=16, count=110, pairs=20))
    few, all_of_them = (len(open_data(built_path(f"faces-16-110-edits{pairs}"))) for pairs in ("-20", ""))
    assert 10 < few <= 20 < all_of_them
    assert again.with_name("faces-16-110-edits.parquet").read_bytes() == path.with_name("faces-16-110-edits.parquet").read_bytes()


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_missing_packages_are_named_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BuildError, match="nowhere"):
        build_set("faces", tmp_path / "nowhere", faces=Faces(count=100))
    assert not built_path("faces-64-100").exists()
    with pytest.raises(DataError, match="count is for the sets 'avatars', 'faces' and 'missions'"):
        build_set("emoji-full", faces=Faces())


def test_without_node_the_builder_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BuildError, match="apt install nodejs"):
        next(draw(some(1), tmp_path, 16))


def test_common_colours_hold_those_of_the_palettes():
    assert {*HAIR, *CLOTHES, *EYES} <= set(COMMON)


def test_the_command_says_which_sets_take_a_count(tmp_path, monkeypatch):
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))
    for name, count, fault in (("faces", 50, "a set of faces has 100 pictures at least"), ("digits", 50, "'digits' takes none of them")):
        done = CliRunner().invoke(app, ["data", "build", name, "--count", str(count)])
        assert done.exit_code != 0
        assert fault in " ".join(f"{done.output} {done.exception}".replace("│", " ").split())
