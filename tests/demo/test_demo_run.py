"""The demonstration from end to end, at the smallest size."""

import io

import pytest
import torch
from PIL import Image
from rich.console import Console

from jielong.apps import demo
from jielong.apps.demo.trace_view import measure_speed, trace
from jielong.config import recipe
from jielong.system import load
from jielong.training import experiment

TINY = ["data.size=16", "train.samples=32", "train.batch=16", "train.warmup=0", "train.log_every=16", "train.sample_every=16"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve captioned images in two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(12):
        place = folder / ("warm" if index % 2 else "cold") / f"{index}.png"
        place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (20 * index, 90, 255 - 20 * index)).save(place)
        place.with_suffix(".txt").write_text(f"colour {index}")
    return folder


@pytest.fixture(scope="module")
def models(pictures, tmp_path_factory):
    """A raster and a masked generator over coarse pixels, trained on 16 samples."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("llamagen-tiny", "maskgit-tiny"):
        chosen = recipe.load(name, ["train.samples=16", "train.warmup=0", "data.size=4"])
        experiment.run(chosen, folder / name, data=str(pictures), progress=False)
    return [str(folder / name) for name in ("llamagen-tiny", "maskgit-tiny")]


def test_the_demo_writes_its_page(pictures, models, tmp_path):
    output = io.StringIO()
    page = demo.run(
        tmp_path / "demo",
        minutes=0.5,
        models=[*models, "no-such-model"],
        tokenizer=models[0],
        sounds=["impact-sounds"],
        prompts=["colour 1", "colour 2"],
        overrides=[f"data.set={pictures}", *TINY],
        console=Console(file=output, width=200),
    )
    assert page == tmp_path / "demo" / "index.html"
    text = page.read_text()
    for needed in (
        "Two prompts, two strategies",
        "Raster: 16 tokens",
        "Masked: 16 tokens",
        "Reconstruction",
        "Trained from scratch",
        "Cost",
    ):
        assert needed in text
    assert "no-such-model" in text
    assert str(page.resolve()) in output.getvalue()
    for run in ("tokenizer", "generator"):
        assert (tmp_path / "demo" / "from-scratch" / run / "model.safetensors").exists()
        assert (tmp_path / "demo" / "from-scratch" / f"{run}.yaml").exists()


def test_a_trace_ends_with_the_generated_image(models):
    for name in models:
        system = load(name)
        prompts = ["colour 1", "colour 2", "colour 3"]
        traces = trace(system, prompts, prompts, seed=5)
        drawn = system.generate(prompts, seed=5)
        steps = 16 if "llamagen" in name else 8
        for each, picture in zip(traces, drawn, strict=True):
            assert len(each.frames) == steps
            torch.testing.assert_close(each.picture, picture.tensor)
            assert set(each.steps) == set(range(1, steps + 1))
            assert each.caption == picture.caption


def test_raster_samples_in_order_and_the_rest_is_white(models):
    (each,) = trace(load(models[0]), ["colour 1"], ["colour 1"])
    assert each.steps == list(range(1, 17))
    first = each.frames[0].flatten(1)
    assert (first[:, 1:] == 1).all()  # a pixel tokenizer's white is exact


def test_speed_is_a_time(models):
    speed = measure_speed(load(models[1]), ["colour 1", "colour 2"])
    assert speed.single > 0
    assert speed.batched > 0
    assert speed.batch == 2
