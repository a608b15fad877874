"""The functions of ``import jielong``: what a notebook uses, with the arguments of the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import jielong
from jielong.config.recipe import built_in
from jielong.config.registry import RecipeError

BRIEF = ("train.samples=16", "train.batch=8", "train.warmup=8", "train.sample_every=16", "train.save_every=8", "train.ema=0.5")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 8), ("heldout", 2)):
        for name, colour in (("red", (220, 40, 30)), ("blue", (40, 60, 220))):
            for index in range(count):
                path = folder / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), colour).save(path)
                path.with_suffix(".txt").write_text(f"a {name} square")
    return folder


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, jielong; jielong.list_recipes(); jielong.list_models(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_recipes_are_listed_with_a_line_each() -> None:
    recipes = jielong.list_recipes()
    assert recipes["maskgit"].startswith("MaskGIT")
    assert not any(name.endswith("-tiny") for name in recipes)
    assert set(jielong.list_recipes(tiny=True)) == set(built_in())


def test_training_gives_a_system_and_resumes(pictures: Path, tmp_path: Path) -> None:
    system = jielong.train("maskgit-tiny", pictures, out=tmp_path / "run", overrides=BRIEF, device="cpu")
    first = system.generate(text="a red square", seed=3).tensor
    again = jielong.train("maskgit-tiny", pictures, out=tmp_path / "run", overrides=BRIEF, device="cpu")
    assert torch.equal(again.generate(text="a red square", seed=3).tensor, first)
    assert torch.equal(jielong.load(tmp_path / "run", device="cpu").generate(text="a red square", seed=3).tensor, first)


def test_a_system_describes_itself_on_one_screen(pictures: Path, tmp_path: Path) -> None:
    system = jielong.train("maskgit-tiny", pictures, out=tmp_path / "run", overrides=BRIEF, device="cpu")
    lines = repr(system).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 120
    for word in ("pixels", "masked", "transformer", "softmax", "text"):
        assert any(word in line for line in lines), word


def test_data_open_and_describe_themselves(pictures: Path) -> None:
    heldout = jielong.open_data(pictures, "heldout", size=8)
    assert len(heldout) == 4
    assert "4 " in repr(heldout)
    assert "2 classes" in repr(heldout)


def test_a_comparison_shows_its_table(pictures: Path, tmp_path: Path) -> None:
    names = ["llamagen-tiny", "maskgit-tiny"]
    overrides = ("train.batch=8", "train.warmup=8", "train.sample_every=16", "train.save_every=16")
    comparison = jielong.compare(names, samples=16, out=tmp_path, data=pictures, overrides=overrides, count=2, device="cpu")
    assert comparison.complete
    assert all(name in repr(comparison) for name in names)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'maskgit"):
        jielong.train("maskgti", out=tmp_path)
    with pytest.raises(ValueError, match="90s, 10m"):
        jielong.train("maskgit-tiny", out=tmp_path, budget="ten minutes")
    with pytest.raises(ValueError, match="one of `budget` and `samples`"):
        jielong.compare(["maskgit-tiny"], budget="1m", samples=8, out=tmp_path)
