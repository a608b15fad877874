"""Crops and flips of training pictures: by position alone, in training alone, and never against a caption."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jielong.config.recipe import load
from jielong.config.registry import RecipeError
from jielong.core.rng import PerSampleRNG
from jielong.data.mirroring import word_of_sides
from jielong.data.opening import open_data
from jielong.data.sets import MediaSet
from jielong.data.source import DataError
from jielong.training.experiment import Experiment, prepare, run
from jielong.training.generator_objective import training_tokens
from jielong.training.opening import open_sets
from jielong.training.stream import TrainingStream

SIZE = 16
FLIP, CROP, BOTH = {"flip": True}, {"crop": 0.5}, {"flip": True, "crop": 0.5}


def write(folder: Path, captions: list[str], shape: tuple[int, int] = (SIZE, SIZE)) -> Path:
    """Pictures whose red grows from left to right, and green from top to bottom; no two alike."""
    for number, caption in enumerate(captions):
        red, green = np.meshgrid(np.linspace(0, 255, shape[1]), np.linspace(0, 255, shape[0]))
        pixels = np.stack([red, green, np.full(shape, 10 * number)], axis=-1).round().astype(np.uint8)
        (folder / f"{number:02d}.txt").write_text(caption, encoding="utf-8")
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, [f"a thing of kind {number}" for number in range(20)])


def opened(folder: Path, augment: object) -> MediaSet:
    return open_data(folder, size=SIZE, augment=augment)


@pytest.mark.parametrize("augment", [FLIP, CROP, BOTH])
def test_an_item_depends_on_its_position_alone(folder: Path, augment: object) -> None:
    whole = TrainingStream(opened(folder, augment), 3).batch(0, 48)
    for size in (1, 5, 16):
        stream = TrainingStream(opened(folder, augment), 3)  # as after an interruption
        for first in range(32, 48, size):
            part = stream.batch(first, min(size, 48 - first))
            assert part.keys == whole.keys[first : first + size]
            assert torch.equal(part.media, whole.media[first : first + size])
    assert not torch.equal(TrainingStream(opened(folder, augment), 4).batch(0, 48).media, whole.media)


def test_half_of_the_pictures_are_flipped_and_nothing_else_changes(folder: Path) -> None:
    plain, data = open_data(folder, size=SIZE), opened(folder, FLIP)
    rows = [position % 20 for position in range(400)]
    media, flips = data.crops(rows, range(400), seed=1).media, 0
    for row, item in zip(rows, media, strict=True):
        original = plain.whole(row)
        flipped = not torch.equal(item, original)
        assert torch.equal(item.flip(-1) if flipped else item, original)
        flips += flipped
    assert 160 < flips < 240


@pytest.mark.parametrize(("shape", "share"), [((16, 16), 0.5), ((40, 40), 0.5), ((40, 40), 0.9), ((24, 60), 0.7), ((90, 30), 0.7)])
def test_a_crop_keeps_the_aspect_and_the_share_of_the_side_and_lies_anywhere(shape: tuple[int, int], share: float, tmp_path: Path) -> None:
    data = opened(write(tmp_path, ["a"], shape), {"crop": share})
    media = (data.crops([0] * 200, range(200), seed=1).media + 1) / 2
    # Red and green are ramps, so their ends say which part of the picture it is, and how large.
    columns = media[:, 0].mean(1)[:, [2, -3]] * (shape[1] - 1)
    rows = media[:, 1].mean(2)[:, [2, -3]] * (shape[0] - 1)
    sides = torch.stack([columns[:, 1] - columns[:, 0], rows[:, 1] - rows[:, 0]], dim=1) * SIZE / (SIZE - 5) / min(shape)
    assert (sides[:, 0] - sides[:, 1]).abs().max() < 0.05
    assert sides.min() == pytest.approx(share, abs=0.05)
    assert sides.max() == pytest.approx(1, abs=0.05)
    for ends, length in ((columns, shape[1]), (rows, shape[0])):
        assert -0.5 < ends.min() < 0.2 * length + 2
        assert 0.8 * length - 3 < ends.max() < length


@pytest.mark.parametrize("size", [(8, 24), (24, 8)])
def test_crops_have_the_aspect_of_other_sizes_than_squares(size: tuple[int, int], tmp_path: Path) -> None:
    data = open_data(write(tmp_path, ["a"], (48, 48)), size=list(size), augment=CROP)
    media = (data.crops([0] * 100, range(100), seed=1).media + 1) / 2 * 47
    assert media.shape == (100, 3, *size)
    # Steps from pixel to pixel are as wide as they are high, whatever the size.
    columns, rows = media[:, 0].diff(dim=2)[..., 2:-2].mean((1, 2)), media[:, 1].diff(dim=1)[:, 2:-2].mean((1, 2))
    assert (columns - rows).abs().max() < 0.1
    assert columns.min() == pytest.approx(1, abs=0.1)
    assert columns.max() == pytest.approx(2, abs=0.1)


def test_a_picture_of_extreme_shape_is_cropped_within_bounds(tmp_path: Path) -> None:
    Image.new("RGB", (20_000, 20), "red").save(tmp_path / "a.png")
    data = opened(tmp_path, CROP)
    media = data.crops([0], [0], seed=1).media
    assert media.shape == (1, 3, SIZE, SIZE)
    assert torch.equal(media[0, 0], torch.ones(SIZE, SIZE))


TRUE = ["a red car", "a bright leftover", "copyright by nobody", "外面的猫", "rightful heirs of the frighteners"]
FALSE = {
    "a car that turns left": "left",
    "Right Hand": "right",
    "the leftmost of three": "leftmost",
    "left_arrow": "left",
    "a right-handed player": "right",
    "it turns counterclockwise": "counterclockwise",
    "左边的猫": "左",
    "向右看": "右",
    "顺时针旋转": "顺时针",
    "the letter A": "letter",
    "a sign that says “stop”": "“",
    "写着名字": "写着",
}


@pytest.mark.parametrize("text", TRUE)
def test_words_that_a_flip_leaves_true(text: str) -> None:
    assert word_of_sides([text]) is None


@pytest.mark.parametrize("text", FALSE)
def test_words_that_a_flip_makes_false(text: str) -> None:
    assert word_of_sides(["a red car", text]) == FALSE[text]


@pytest.mark.parametrize("augment", [FLIP, BOTH])
def test_augmentations_leave_captions_true(tmp_path: Path, augment: object) -> None:
    captions = ["a cat on the left", "猫在右边", "a cat", "a dog"] * 3
    folder = write(tmp_path, captions)
    (folder / "02.txt").unlink()
    (folder / "02.json").write_text('{"caption": ["a cat", "a cat that looks right"]}')
    data = opened(folder, augment)
    seen = {True: 0, False: 0}
    for row, caption in enumerate(captions):
        media = data.crops([row] * 40, range(40 * row, 40 * row + 40), seed=1).media
        falling = (media[:, 0, :, -1] < media[:, 0, :, 0]).all(1)  # red falls from left to right: it is flipped
        kept = row == 2 or "left" in caption or "右" in caption
        assert falling.any() != kept
        seen[kept] += 1
    assert seen == {True: 7, False: 5}
    words, names = "left (3), 右 (3), right (1)", "00.png, 01.png, 02.png, ..."
    recipe = load("vqgan-tiny", [f"data.size={SIZE}", "data.augment.flip=true"])
    with pytest.warns(UserWarning, match=r"are never flipped.*left \(\d\), 右 \(\d\), right \(1\)") as caught:
        open_sets(recipe, str(folder))
    said = [str(each.message) for each in caught if "never flipped" in str(each.message)]
    assert len(said) == 1
    assert data.augmenter is not None
    assert f"7 of 12 pictures are never flipped, since a word of their captions or classes may become false: {words}; {names}" in (
        data.augmenter.report()
    )


def test_a_class_that_names_a_side_is_not_flipped(tmp_path: Path) -> None:
    for name in ("turn_left", "straight"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, ["a sort of road"])
    data = opened(tmp_path, FLIP)
    assert data.augmenter is not None
    assert dict(zip(data.keys, data.augmenter.words, strict=True)) == {"straight/00.png": None, "turn_left/00.png": "left"}


def test_nothing_is_said_where_every_picture_may_be_flipped(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_sets(load("vqgan-tiny", [f"data.size={SIZE}", "data.augment={flip: true, crop: 0.8}"]), str(folder))


def test_measurements_and_the_fingerprint_know_no_augmentation(folder: Path) -> None:
    plain, data = open_data(folder, size=SIZE), opened(folder, BOTH)
    assert torch.equal(data.batch(range(20)).media, plain.batch(range(20)).media)
    assert data.fingerprint == plain.fingerprint
    for nothing in (None, {}, {"flip": False, "crop": 1.0}):
        assert opened(folder, nothing).augmenter is None


def test_a_broken_picture_is_replaced_with_the_words_of_the_other(tmp_path: Path) -> None:
    folder = write(tmp_path, ["a", "b", "on the left"])
    data = (folder / "01.png").read_bytes()
    (folder / "01.png").write_bytes(data[:-30])
    found = opened(folder, BOTH)
    with pytest.warns(UserWarning, match=r"01.png cannot be decoded"):
        batch = found.crops([1] * 8, range(8), seed=0)
    assert batch.captions == ["on the left"] * 8
    assert (batch.media[:, 0, :, -1] > batch.media[:, 0, :, 0]).all()


def test_pictures_with_writing_are_not_flipped() -> None:
    with pytest.raises(DataError, match=r"emoji.* holds letters, digits or signs.*data.augment.flip"):
        open_sets(load("vqgan-tiny", ["data.augment.flip=true"]), "emoji?style=Noto")
    open_sets(load("vqgan-tiny", ["data.augment.crop=0.8"]), "emoji?style=Noto")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["data.augment.crop=0"], "augment.crop"),
        (["data.augment.crop=1.5"], "augment.crop"),
        (["data.augment.mirror=true"], "augment.mirror"),
        (["data.augment=flip"], "augment"),
    ],
)
def test_wrong_settings_are_refused(settings: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load("vqgan-tiny", settings)


def test_sound_has_no_augmentation() -> None:
    with pytest.raises(RecipeError, match="augment of image"):
        load("vocos-tiny", ["data.augment={flip: true}"])


def experiment(folder: Path, augment: str) -> Experiment:
    return prepare(load("maskgit-tiny", ["data.size=32", f"data.augment={augment}"]), str(folder))


def test_a_generator_trains_on_cached_tokens_of_both_sides(folder: Path) -> None:
    parts = experiment(folder, "{flip: true}")
    tokens = parts.load_tokens(None)
    stream = TrainingStream(parts.data, 5, tokens, mirrored=parts.load_mirrored(tokens))
    found, media = stream.batch(7, 32), TrainingStream(parts.data, 5).batch(7, 32)
    assert found.tokens is not None
    assert found.keys == media.keys
    assert found.captions == media.captions
    assert torch.equal(found.tokens, parts.tokenizer.encode_to_cache(media.media).values)
    assert tokens is not None
    plain = TrainingStream(parts.data, 5, tokens).batch(7, 32)
    assert plain.tokens is not None
    changed = (plain.tokens != found.tokens).flatten(1).any(1)
    assert 0 < changed.sum() < 32


def test_a_generator_trains_on_crops_that_are_tokenized_anew(folder: Path, tmp_path: Path) -> None:
    parts = experiment(folder, "{flip: true, crop: 0.7}")
    assert parts.load_tokens(None) is None
    batch = TrainingStream(parts.data, 5).batch(0, 8)
    tokens = training_tokens(parts.tokenizer, batch, PerSampleRNG(0, range(8)), False)
    assert torch.equal(tokens.values, parts.tokenizer.encode_to_cache(batch.media).values)
    with pytest.raises(ValueError, match="holds tokens of pictures as they are, but data"):
        parts.load_tokens(tmp_path / "tokens.safetensors")


@pytest.mark.parametrize("augment", ["{flip: true}", "{flip: true, crop: 0.7}"])
def test_a_generator_is_trained(folder: Path, tmp_path_factory: pytest.TempPathFactory, augment: str) -> None:
    out = tmp_path_factory.mktemp("run")
    brief = ["train.samples=8", "train.batch=4", "train.warmup=0", "train.sample_every=8", "train.save_every=8", "data.size=32"]
    assert run(load("maskgit-tiny", [*brief, f"data.augment={augment}"]), out, str(folder), device="cpu").finished
