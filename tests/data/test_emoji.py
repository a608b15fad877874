"""The built-in set: its words, its pictures and the split that measures composition."""

import io
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from jielong.data.opening import open_data
from jielong.data.sets import MediaSet
from jielong.media.images import encode, to_bytes
from jielong_zoo.builders.emoji import STYLES, Concept, Drawing, concept_key, split_of, write_set

pytest.importorskip("jielong_zoo", reason="the built-in sets are in the distribution jielong-zoo")


@pytest.fixture(scope="module")
def emoji() -> MediaSet:
    return open_data("emoji")


def pairs(images: MediaSet) -> set[tuple[str, str]]:
    return set(zip(images.columns["hexcode"], images.columns["style"], strict=True))


def test_split_holds_out_5_percent_of_pairs_and_never_a_whole_concept(emoji):
    train, heldout = pairs(open_data("emoji", split="train")), pairs(open_data("emoji", split="heldout"))
    assert train | heldout == pairs(emoji)
    assert not train & heldout
    assert 0.045 < len(heldout) / len(emoji) < 0.055
    concepts = [concept for concept, _ in heldout]
    assert len(concepts) == len(set(concepts))
    assert set(concepts) <= {concept for concept, _ in train}
    styles = Counter(style for _, style in heldout)
    assert min(styles.values()) > 0.4 * len(heldout)  # both styles are held out alike


def test_no_held_out_picture_is_seen_in_training_under_another_name(emoji):
    train, heldout = (open_data("emoji", split=split) for split in ("train", "heldout"))
    seen = {train.source.blob(i) for i in train.indices}
    assert not [heldout.keys[n] for n, i in enumerate(heldout.indices) if heldout.source.blob(i) in seen]


def test_words(emoji):
    by_key = dict(zip(emoji.keys, range(len(emoji)), strict=True))
    assert len(by_key) == len(emoji)
    at = by_key["1F469-1F3FF-200D-1F33E/Noto"]
    assert emoji.captions[at] == "woman farmer: dark skin tone, Noto style"
    assert emoji.columns["skin_tone"][at] == "dark"
    assert emoji.columns["caption_zh"][at] == "农妇: 较深肤色"
    assert emoji.classes[emoji.labels[at]] == "people-body"
    assert all(emoji.captions)
    assert len(set(emoji.captions)) == len(emoji)
    assert set(emoji.columns["skin_tone"]) >= {"", "light", "light, dark"}


def test_pictures_decode_exactly(emoji):
    at = [0, 1000, 7000]
    media = emoji.media(at)
    assert media.shape == (3, 3, 64, 64)
    for index, picture in zip(at, to_bytes(media), strict=True):
        with Image.open(io.BytesIO(emoji.source.blob(index))) as image:
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image).transpose(2, 0, 1), picture.numpy())


def test_splits_number_the_classes_equally_and_have_their_own_fingerprints(emoji):
    train, heldout = (open_data("emoji", split=split) for split in ("train", "heldout"))
    assert train.classes == heldout.classes == emoji.classes
    prints = {s.fingerprint for s in (emoji, train, heldout, open_data("emoji", size=32), open_data("emoji", channels=1))}
    assert len(prints) == 5
    assert open_data("emoji").fingerprint == emoji.fingerprint


def drawing(code: str, style: str, colour: int | None = None) -> Drawing:
    colour = hash((code, style)) % 2**24 if colour is None else colour
    image = encode(Image.new("RGB", (4, 4), (colour & 255, colour >> 8 & 255, colour >> 16)), "WEBP", lossless=True)
    return Drawing(Concept(code, code.lower(), "", (), "group", "sub", ""), style, image)


def test_split_does_not_move_when_the_set_grows_and_spares_copies():
    two = [drawing(f"{n:X}", style, n * 7 + STYLES.index(style)) for n in range(600) for style in STYLES[:2]]
    split = split_of(two)
    more = [drawing(f"{n:X}", style, n * 7 + STYLES.index(style)) for n in range(600) for style in STYLES]
    grown = {(d.concept.hexcode, d.style): s for d, s in zip(more, split_of(more), strict=True)}
    assert [grown[d.concept.hexcode, d.style] for d in two] == split
    assert split.count("heldout") > 30
    lonely = [drawing(f"{n:X}", "Noto", n) for n in range(600)]
    assert set(split_of(lonely)) == {"train"}
    copies = [drawing(f"{n:X}", style, STYLES.index(style)) for n in range(600) for style in STYLES[:2]]
    assert set(split_of(copies)) == {"train"}


def test_the_same_drawings_give_the_same_bytes_in_any_order(tmp_path):
    drawings = [drawing(f"{n:X}", style, n) for n in range(9) for style in STYLES]
    assert write_set(tmp_path / "a.parquet", drawings) == len(drawings)
    write_set(tmp_path / "b.parquet", drawings[::-1])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_concept_key_ignores_the_variation_selector():
    assert concept_key("0023-fe0f-20e3") == concept_key("0023-20E3") == "0023-20E3"


def test_kept_pictures_are_the_decoded_ones(emoji):
    first = emoji.media([5, 6, 5])
    assert torch.equal(first[0], first[2])
    assert torch.equal(emoji.media([6, 5])[1], first[0])
    assert torch.equal(open_data("emoji").media([5])[0], first[0])
