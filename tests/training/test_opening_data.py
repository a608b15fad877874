"""What is known when data are opened is known before training: no run ends at a step over one item."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jielong.conditions.text import NO_TEXT, ByteText, check_texts
from jielong.config.recipe import parse
from jielong.config.registry import RecipeError
from jielong.config.schema import Recipe
from jielong.core.allocation import TooLargeError
from jielong.data.opening import open_quietly
from jielong.data.source import DataError
from jielong.evaluation.evaluate import evaluate
from jielong.media.images import encode
from jielong.system import load
from jielong.training import token_cache as cache
from jielong.training.experiment import prepare, run
from jielong.training.opening import open_sets

GENERATOR = """\
data: {{set: '{folder}', size: 8{data}}}
tokenizer: {{pixels: {{levels: 4}}}}
condition: {condition}
order: masked
backbone: {{transformer: {{layers: 1, width: 16, heads: 2}}}}
head: softmax
sampling: {{steps: 2}}
train: {{samples: 32, batch: 8}}
"""
TEXT, CLASS = "{text: {encoder: bytes, width: 8}}", "{class: {width: 8}}"


def picture(number: int) -> bytes:
    return encode(Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)))


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def recipe(folder: Path, condition: str = TEXT, data: str = "") -> Recipe:
    return parse(GENERATOR.format(folder=folder, condition=condition, data=data))


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """Twelve pictures, all but one training and one held-out with a caption."""
    files = {f"{split}/{n}.png": picture(n + 20 * (split == "test")) for split in ("train", "test") for n in range(6)}
    words = {name.replace(".png", ".txt"): b"a picture" for name in files if name not in ("train/3.png", "test/0.png")}
    return put(tmp_path / "set", files | words)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))


def test_an_item_without_a_caption_is_left_out_and_named_once(captioned: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"2 no caption or class \(train/3.png, test/0.png\)") as met:
        summary = run(recipe(captioned), tmp_path / "run")
    assert sum("not used" in str(each.message) for each in met) == 1
    assert summary.samples == 32
    assert summary.evaluation["heldout_loss"] > 0
    with pytest.warns(UserWarning, match=r"1 no caption or class \(test/0.png\)"):
        found = evaluate(load(str(tmp_path / "run")))
    assert found.provenance["reference"]["n"] == 5


def test_a_recipe_may_refuse_or_use_items_without_a_caption(captioned: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 6 pictures lack a caption, the first train/3.png; .*data.missing_condition to skip"):
        prepare(recipe(captioned, data=", missing_condition: error"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = run(recipe(captioned, data=", missing_condition: empty"), tmp_path / "run")
    assert summary.samples == 32


def test_an_empty_caption_is_one_state_and_an_empty_text_is_refused() -> None:
    condition = ByteText(8, 4, 0.1)
    prepared = condition.prepare([NO_TEXT, "ab"])
    assert prepared.mask.tolist() == [[True, False], [True, True]]
    assert condition.embed(prepared).pooled.isfinite().all()
    with pytest.raises(ValueError, match="needs words"):
        check_texts([""])


def test_a_transcript_cannot_be_empty(captioned: Path) -> None:
    with pytest.raises(RecipeError, match="a transcript cannot be"):
        prepare(recipe(captioned, "{characters: {width: 8, layers: 1, heads: 2}}", ", missing_condition: empty"))


def test_an_item_without_a_class_is_left_out(tmp_path: Path) -> None:
    files = {
        f"{split}/{label}/{n}.png": picture(n)
        for split, first in (("train", 0), ("test", 9))
        for label in "ab"
        for n in range(first, first + 2)
    }
    folder = put(tmp_path / "set", files | {"train/loose.png": picture(50)})
    with pytest.warns(UserWarning, match=r"1 no caption or class \(train/loose.png\)"):
        summary = run(recipe(folder, CLASS), tmp_path / "run")
    assert summary.evaluation["heldout_loss"] > 0


@pytest.mark.parametrize(
    "heldout", [{}, {"test/a.png": b"broken"}, {"test/a.png": picture(9)[:150], "test/a.txt": b"cut"}, {"test/a.png": picture(9)}]
)
def test_without_usable_held_out_items_training_has_no_held_out_figures(tmp_path: Path, heldout: dict[str, bytes]) -> None:
    files = {f"train/{n}.png": picture(n) for n in range(4)} | {f"train/{n}.txt": b"a picture" for n in range(4)}
    folder = put(tmp_path / "set", files | heldout)
    with pytest.warns(UserWarning, match="no held-out pictures: .*held-out figures are left out") as met:
        summary = run(recipe(folder), tmp_path / "run")
    assert sum("no held-out" in str(each.message) for each in met) == 1
    assert summary.samples == 32
    assert not any(name.startswith("heldout") for name in summary.evaluation)
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().split("\n") if line]
    assert not any(name.startswith("heldout") for line in log for name in line)


def test_sets_are_the_splits(captioned: Path) -> None:
    with pytest.warns(UserWarning, match="not used"):
        sets = open_sets(recipe(captioned), str(captioned))
    assert sets.measured
    assert sets.train.keys == [f"train/{n}.png" for n in (0, 1, 2, 4, 5)]
    assert sets.heldout.keys == [f"test/{n}.png" for n in range(1, 6)]


def test_broken_held_out_items_are_left_out_and_named_once(captioned: Path, tmp_path: Path) -> None:
    put(captioned, {"test/1.png": picture(9)[:150], "test/4.png": picture(8)[:150]})  # whole headers, cut pixels
    with pytest.warns(UserWarning, match=r"2 broken \(test/1.png, test/4.png\)") as met:
        summary = run(recipe(captioned), tmp_path / "run")
    assert sum("test/1.png" in str(each.message) for each in met) == 1
    assert summary.evaluation["heldout_loss"] > 0
    with pytest.warns(UserWarning, match=r"2 broken \(test/1.png, test/4.png\)"):
        reference = evaluate(load(str(tmp_path / "run"))).provenance["reference"]
    assert (reference["n"], reference["of"]) == (3, 3)  # no good item stands twice
    assert reference["left_out"] == {"broken": ["test/1.png", "test/4.png"], "no caption or class": ["test/0.png"]}
    with pytest.warns(UserWarning, match="not used"):
        assert evaluate(load(str(tmp_path / "run")), count=2).provenance["reference"]["n"] == 2


def test_a_caption_that_the_model_cannot_read_costs_its_item(captioned: Path) -> None:
    (captioned / "train" / "1.txt").write_text("\u4e2d")
    (captioned / "test" / "5.txt").write_text("a" * 500)
    with pytest.warns(UserWarning, match=r"2 caption that the model cannot read \(train/1.png, test/5.png\)"):
        experiment = prepare(recipe(captioned, "{characters: {width: 8, layers: 1, heads: 2}}"))
    assert experiment.data.keys == [f"train/{n}.png" for n in (0, 2, 4, 5)]
    assert experiment.heldout.keys == [f"test/{n}.png" for n in range(1, 5)]
    for path in captioned.glob("test/*.txt"):
        path.write_text("\u4e2d")
    with pytest.warns(UserWarning, match="no held-out pictures: the model can read the caption of none"):
        assert not prepare(recipe(captioned, "{characters: {width: 8, layers: 1, heads: 2}}")).sets.measured
    for path in captioned.glob("train/*.txt"):
        path.write_text("\u4e2d")
    experiment = prepare(recipe(captioned, "{characters: {width: 8, layers: 1, heads: 2}}"))
    assert len(experiment.data) == 5  # training says that none of them can be read


def test_tokens_of_a_set_serve_a_recipe_that_leaves_items_out(captioned: Path, tmp_path: Path) -> None:
    put(captioned, {"train/2.png": picture(9)[:150]})  # broken, and the next one has no caption
    file, tokenizer = tmp_path / "train.safetensors", prepare(recipe(captioned)).tokenizer
    every = open_quietly(captioned, "train", size=8)
    with pytest.warns(UserWarning, match="takes its place"):
        cache.write(file, cache.tokenize(tokenizer, every), cache.identity(tokenizer, every), every.replacements)
    data = prepare(recipe(captioned)).data
    tokens = cache.read_for(file, tokenizer, data)
    assert data.keys == [f"train/{n}.png" for n in (0, 1, 2, 4, 5)]
    assert data.tokenised(range(5), tokens.values).keys == [f"train/{n}.png" for n in (0, 1, 4, 4, 5)]
    assert torch.equal(tokens.values, tokenizer.encode(data.media(range(5))).values)
    put(captioned, {"train/5.png": picture(77)})
    with pytest.raises(cache.StaleTokensError, match="from other data"):
        cache.read_for(file, tokenizer, prepare(recipe(captioned)).data)


@pytest.mark.filterwarnings("ignore:.*not used")
def test_what_no_memory_holds_is_refused_before_anything_is_decoded(captioned: Path) -> None:
    with pytest.raises(TooLargeError, match=r"one picture of .* takes 12\.0 TB, and this process may have"):
        open_quietly(captioned, "train", size=1_000_000)
    large = recipe(captioned)
    large = large.model_copy(update={"train": large.train.model_copy(update={"batch": 10**12})})
    with pytest.raises(TooLargeError, match=r"a batch takes at least .* TB, and this process may have .* smaller train\.batch"):
        prepare(large)
