"""The judge of attributes: what it reads of real pictures, of edits, and how accuracy is counted."""

import io
import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

from jielong.data.opening import open_data
from jielong.evaluation.attribute_training import (
    ATTRIBUTES,
    JudgeSettings,
    accuracy,
    card,
    classes_of,
    fit,
    readable,
    recolour,
    targets_of,
    validation_rows,
    write_judge,
)
from jielong.evaluation.attributes import PROVENANCE, WEIGHTS, AttributeJudge, AttributeNet, JudgeError, JudgeRecord, attribute_accuracy
from jielong.media.images import to_tensor
from jielong.training.checkpoint import CHECKSUMS, write_checksums

FOLDER = Path(import_module("jielong_zoo").path()) / "models" / "judge-faces"


@pytest.fixture(scope="module")
def judge() -> AttributeJudge:
    return AttributeJudge.load(FOLDER)


@pytest.fixture(scope="module")
def images():
    return open_data("faces", "train")


@pytest.fixture(scope="module")
def heldout():
    return open_data("faces", "heldout")


CLASSES = {"hair": ["bun", "long", "short"], "hat": ["cap", "none", "turban"]}
ALL = dict.fromkeys(CLASSES, 1.0)
RECORD = JudgeRecord("faces", 8, 2, 2, CLASSES, accuracy=ALL, accuracy_all=ALL, checked=dict.fromkeys(CLASSES, 3), unread={"hat": ["cap"]})


class Fixed(AttributeNet):
    """Reads the class of each attribute from the first values of a picture."""

    def forward(self, pictures, shown=None):
        number = pictures[:, 0, 0, :2].round().long()
        return {name: torch.nn.functional.one_hot(number[:, place], 3).float() for place, name in enumerate(("hair", "hat"))}


def fixed() -> AttributeJudge:
    return AttributeJudge(Fixed(CLASSES, 8, width=2, hidden=2), JudgeRecord("faces", 8, 2, 2, CLASSES))


def test_accuracy_counts_named_attributes_and_keeps_the_unnamed_apart():
    pictures = torch.zeros(4, 3, 8, 8)
    for row, (hair, hat) in enumerate(((0, 1), (1, 1), (2, 2), (0, 0))):
        pictures[row, :, 0, 0], pictures[row, :, 0, 1] = hair, hat
    wanted = {"hair": ["bun", "bun", "short", None], "hat": ["none", "turban", "turban", "none"]}
    found = attribute_accuracy(pictures, wanted, fixed())
    # hair: right, wrong, right; hat named: wrong, right; unnamed: right, wrong
    assert found.value == pytest.approx(3 / 5)
    assert found.details["attributes"] == {"hair": round(2 / 3, 4), "hat": 0.5}
    assert (found.n, found.details["named"], found.details["unnamed"]) == (4, 5, 0.5)
    assert found.number("standard_error") == pytest.approx((0.6 * 0.4 / 5) ** 0.5)
    with pytest.raises(ValueError, match="no picture has a value"):
        attribute_accuracy(pictures, {"hat": ["none"] * 4}, fixed())


def test_values_that_are_confused_are_left_out_until_the_rest_is_readable():
    wanted = ["a"] * 99 + ["b"] * 50 + ["c"] * 50 + [None]
    found = ["a"] * 99 + ["b"] * 50 + ["a"] * 10 + ["c"] * 40 + ["b"]
    assert accuracy(wanted, found) == round(189 / 199, 5)
    assert readable(wanted, found) == ["c"]
    assert accuracy(wanted, found, ["c"]) == 1
    assert readable(["a"] * 100, ["a"] * 98 + ["b"] * 2) == []
    assert readable(["a"] * 10, ["b"] * 10) == ["a"]
    assert readable([None], ["b"]) == []


def test_the_validation_part_has_combinations_that_the_rest_lacks_and_no_new_value(images):
    rows = set(validation_rows(images))
    assert 0.04 < len(rows) / len(images) < 0.06

    def of(name):
        column = images.columns[name]
        return {column[row] for row in rows}, {column[row] for row in range(len(images)) if row not in rows}

    for name in ("style", "hair", "hair_color", "hat", "hat_color"):
        part, rest = of(name)
        assert part <= rest
    columns = [images.columns[name] for name in ("style", "hair", "hair_color")]
    triples = list(zip(*columns, strict=True))
    part = {triples[row] for row in rows if None not in triples[row]}
    assert part
    assert part.isdisjoint(triples[row] for row in range(len(images)) if row not in rows)


def test_recolouring_keeps_channels_and_every_second_picture():
    pictures = torch.arange(3.0).view(1, 3, 1, 1).expand(600, 3, 2, 2)
    made = recolour(pictures, torch.Generator().manual_seed(0))
    assert torch.equal(made.sort(1).values, pictures)
    assert len(made.flatten(1).unique(dim=0)) == 6
    assert 0.5 < float((made == pictures).flatten(1).all(1).float().mean()) < 0.67  # 1/2 + 1/12


def test_a_colour_is_read_from_the_picture_and_not_from_the_shapes_that_point_to_it():
    torch.manual_seed(0)
    network = AttributeNet({"hair": ["a", "b"], "hair_color": ["red", "blue"]}, 16, width=4, hidden=8).eval()
    shapes, colours = torch.randn(2, 1, 3, 16, 16)
    seen, flat = network(colours, shapes), network(torch.zeros_like(colours), shapes)
    assert torch.equal(seen["hair"], flat["hair"])
    assert not torch.equal(seen["hair_color"], flat["hair_color"])
    # of one color everywhere, it does not matter where a shape points to
    plain = torch.full_like(colours, 0.5)
    torch.testing.assert_close(network(plain, shapes)["hair_color"], network(plain, -shapes)["hair_color"])


def test_values_that_are_not_judged_do_not_count():
    judge = AttributeJudge(Fixed(CLASSES, 8, width=2, hidden=2), JudgeRecord("faces", 8, 2, 2, CLASSES, unread={"hair": ["long"]}))
    found = attribute_accuracy(torch.zeros(3, 3, 8, 8), {"hair": ["long", "bun", "short"]}, judge)
    assert (found.value, found.details["named"]) == (0.5, 2)


def test_reading_takes_grey_pictures_and_other_sizes():
    assert fixed().read(torch.zeros(2, 1, 8, 8)) == {"hair": ["bun"] * 2, "hat": ["cap"] * 2}
    assert fixed().read(torch.zeros(2, 3, 32, 32))["hair"] == ["bun"] * 2


def test_a_network_learns_colours_and_ignores_what_is_unknown():
    torch.manual_seed(0)
    colours = torch.tensor([[255, 0, 0], [0, 0, 255]], dtype=torch.uint8)
    labels = torch.arange(64) % 2
    pictures = colours[labels][:, :, None, None].expand(-1, -1, 16, 16).contiguous()
    targets = {"hair_color": labels, "hat": torch.full((64,), -1)}
    classes = {"hair_color": ["red", "blue"], "hat": ["cap", "none"]}
    settings = JudgeSettings(width=4, hidden=8, epochs=20, batch=16)
    lines: list[str] = []
    network = fit(pictures, targets, classes, settings, lines.append)
    assert len(lines) == 20
    judge = AttributeJudge(network, JudgeRecord("x", 16, 4, 8, classes))
    wanted = {"hair_color": [classes["hair_color"][n] for n in labels.tolist()], "hat": [None] * 64}
    assert attribute_accuracy(pictures.float() / 127.5 - 1, wanted, judge).value == 1
    again = fit(pictures, targets, classes, settings)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True))


def test_targets_number_the_values_and_mark_missing_ones(heldout):
    classes = classes_of(heldout, ["hat", "style"])
    assert classes["style"] == ["micah", "open-peeps", "personas", "pixel-art", "toon-head"]
    numbers = targets_of(heldout, classes)["hat"].tolist()
    for number, value in zip(numbers, heldout.columns["hat"], strict=True):
        assert (number == -1) == (value is None)
        assert number == -1 or classes["hat"][number] == value


def test_the_judge_reads_real_held_out_pictures(judge, heldout):
    rows = range(0, len(heldout), 4)
    wanted = {name: [heldout.columns[name][row] for row in rows] for name in judge.classes}
    found = attribute_accuracy(heldout.media(rows), wanted, judge)
    assert found.value > 0.98
    assert found.number("unnamed") > 0.98
    assert judge.record.accuracy_real > 0.98
    assert min(judge.record.accuracy.values()) >= 0.98
    assert set(judge.classes) <= set(ATTRIBUTES)
    assert judge.record.data == "faces"


def test_the_judge_sees_what_an_edit_changes_and_nothing_else(judge):
    edits = open_data("faces-edits", "heldout")
    rows = [row for row in range(0, len(edits), 2) if edits.columns["attribute"][row] in judge.classes]
    rows = [row for row in rows if edits.columns["after"][row] not in judge.record.unread.get(edits.columns["attribute"][row], ())]
    after = judge.read(edits.media(rows))
    hits = [after[edits.columns["attribute"][row]][place] == edits.columns["after"][row] for place, row in enumerate(rows)]
    assert sum(hits) / len(hits) > 0.97
    sources = torch.stack([to_tensor(Image.open(io.BytesIO(edits.columns["source"][row]))) for row in rows])
    before = judge.read(sources)
    same = [
        before[name][n] == after[name][n]
        for n, row in enumerate(rows)
        for name in ("style", "skin")
        if edits.columns["attribute"][row] != name
    ]
    assert sum(same) / len(same) > 0.97


def test_a_damaged_or_missing_judge_is_named(tmp_path):
    with pytest.raises(JudgeError, match="attribute_training"):
        AttributeJudge.load(tmp_path)
    for name in (WEIGHTS, PROVENANCE, CHECKSUMS):
        shutil.copy(FOLDER / name, tmp_path / name)
    AttributeJudge.load(tmp_path)
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(JudgeError, match=f"{WEIGHTS} is damaged: its SHA-256"):
        AttributeJudge.load(tmp_path)
    write_checksums(tmp_path, [WEIGHTS])
    with pytest.raises(JudgeError, match=f"{CHECKSUMS} gives {WEIGHTS} the SHA-256 .*, but {PROVENANCE}"):
        AttributeJudge.load(tmp_path)


def test_a_judge_is_the_same_after_writing_and_reading_it(tmp_path):
    torch.manual_seed(0)
    network = AttributeNet(CLASSES, 8, width=2, hidden=2).eval()
    for parameter in network.parameters():
        parameter.data = parameter.data.bfloat16().float()
    written = write_judge(tmp_path, AttributeJudge(network, RECORD))
    again = AttributeJudge.load(tmp_path)
    assert again.record == written.record
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.network.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": "64"}, "size"),
        ({"width": -2}, "width"),
        ({"classes": ["hair"]}, "classes"),
        ({"hidden": 100_000}, "MB"),
        ({"width": 3}, "tensor .* but the model.s is"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(tmp_path, change, reason):
    write_judge(tmp_path, AttributeJudge(AttributeNet(CLASSES, 8, width=2, hidden=2), RECORD))
    record = json.loads((tmp_path / PROVENANCE).read_text())
    (tmp_path / PROVENANCE).write_text(json.dumps(record | change))
    with pytest.raises(JudgeError, match=reason):
        AttributeJudge.load(tmp_path)


def test_there_is_no_judge_of_a_set_without_attributes():
    assert AttributeJudge.of("emoji") is None


def test_the_card_says_what_the_record_says(judge):
    assert (FOLDER / "card.md").read_text("utf-8") == card(judge.record)


def test_sizes_of_the_network():
    network = AttributeNet({"hair": ["a", "b", "c"]}, 64, width=4, hidden=8)
    assert network(torch.zeros(2, 3, 64, 64))["hair"].shape == (2, 3)
