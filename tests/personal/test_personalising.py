"""A personalisation is one run of the one loop: resumed as uninterrupted, nothing of the base changed, faults named before the work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from subjects import checkpoint, pictures

from jielong.config.registry import RecipeError
from jielong.core.rng import PerSampleRNG
from jielong.data.source import DataError
from jielong.system import load
from jielong.system.adapters import find_adapter, read_adapter
from jielong.training.adapter_objective import AdapterObjective
from jielong.training.checkpoint import CheckpointError, fingerprint
from jielong.training.experiment import prepare, run
from jielong.training.objective import StepRNG
from jielong.training.objectives import generator_objective
from jielong.training.personalise import Personalisation, plan
from jielong.training.stream import TrainingStream

WANTED = Personalisation("@me", samples=24, batch=4, rank=2, lr=1e-2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    checkpoint(Path("base"))
    return pictures(Path("me"))


def test_a_resumed_run_equals_an_uninterrupted_one(place):
    recipe = plan("base", place, Path("adapters/@me"), WANTED)
    run(recipe, Path("adapters/@me"), device="cpu", progress=False)
    whole = read_adapter(find_adapter("@me"))
    assert (whole.record.base, whole.record.method, whole.record.rank, whole.record.pictures) == ("base", "lora", 2, 4)
    assert any(value.any() for name, value in whole.tensors.items() if "lora_B" in name)
    run(recipe, Path("parts"), device="cpu", progress=False, stop_after=8)
    assert not Path("parts/adapter.safetensors").exists()
    with pytest.raises(CheckpointError, match="parts has not finished: go on training it"):
        find_adapter("parts")
    run(recipe, Path("parts"), device="cpu", progress=False)
    parts = read_adapter(Path("parts/adapter.safetensors"))
    assert parts.record == whole.record
    assert parts.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(value, whole.tensors[name]) for name, value in parts.tensors.items())
    plain, personal = load("base", "cpu"), load("base", "cpu", adapters=["@me"])
    assert fingerprint(plain.generator) == whole.record.base_sha256 != fingerprint(personal.generator)
    # a finished run is not repeated
    assert run(recipe, Path("parts"), device="cpu", progress=False).samples == 24


def test_class_pictures_keep_the_loss_of_the_base(place):
    """At first both losses are the base's own: that of the class pictures equals its loss on these."""
    wanted = Personalisation("@me", samples=8, batch=4, rank=2, noun="person", prior=5, prior_weight=0.5)
    recipe = plan("base", place, Path("out"), wanted)
    experiment = prepare(recipe)
    objective = generator_objective(experiment)
    assert isinstance(objective, AdapterObjective)
    assert objective.prior is not None
    assert len(objective.prior.data) == 5
    assert set(objective.prior.data.captions) == {"a picture of a person"}
    batch = TrainingStream(experiment.data, 0).batch(0, 4)
    assert set(batch.captions or ()) == {"a picture of @me"}
    objective.eval()
    rng = StepRNG(PerSampleRNG(0, range(4)), torch.Generator())
    with torch.no_grad():
        losses = objective(batch, "model", 0, rng)
        streams = PerSampleRNG(0, range(4))
        alone = AdapterObjective.__mro__[1].forward(objective, batch, "model", 0, StepRNG(streams, torch.Generator()))
    torch.testing.assert_close(losses.parts["subject_loss"], alone.total)
    torch.testing.assert_close(losses.total, losses.parts["subject_loss"] + 0.5 * losses.parts["prior_loss"])
    assert losses.parts["prior_loss"] != losses.parts["subject_loss"]
    drawn = sorted(Path("out/class-pictures").glob("*.png"))
    before = [path.stat().st_mtime_ns for path in drawn]
    plan("base", place, Path("out"), wanted)
    assert [path.stat().st_mtime_ns for path in drawn] == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "me"}, "'me' may be a word of any text.*write @me"),
        ({"name": "@two words"}, "write @two_words"),
        ({"captions": ["a face"]}, "has no {name}"),
        ({"targets": ["qvk"]}, "adapter.lora: there is no map 'qvk'"),
        ({"prior": 5}, "give `noun`, such as person"),
        ({"prior": 5, "prior_from": "nowhere"}, "prior_from is generated or data"),
        ({"prior": -1}, "prior is a number of class pictures"),
    ],
)
def test_faults_are_named(place, change, says):
    with pytest.raises(ValueError, match=says):
        prepare(plan("base", place, Path("out"), Personalisation(**{"name": "@me", **change})))


def test_too_few_pictures_and_files_that_are_none_are_refused(place):
    few = pictures(Path("few"), 2)
    (few / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"few holds 2 usable pictures.*give 3 to 10 of one subject; add some"):
        plan("base", few, Path("out"), WANTED)
    with pytest.raises(DataError, match=r"holds 11 usable pictures.*choose the best"):
        plan("base", pictures(Path("many"), 11), Path("out"), WANTED)
    (few / "2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"holds 2 usable pictures.*broken"):
        plan("base", few, Path("out"), WANTED)
    words = Path("words")
    words.mkdir()
    (words / "a.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"holds no pictures|holds no images"):
        plan("base", words, Path("out"), WANTED)
    with pytest.raises(RecipeError, match="there is no folder nowhere"):
        plan("base", Path("nowhere"), Path("out"), WANTED)
    (place / "0.txt").write_text("a smiling person")
    with pytest.raises(DataError, match=r"the caption of 0.png does not name the subject: write @me into 'a smiling person'"):
        plan("base", place, Path("out"), WANTED)
    (place / "0.txt").write_text("@me smiling")
    assert prepare(plan("base", place, Path("out"), WANTED)).data.captions[0] == "@me smiling"
    assert Image.open(place / "0.png").size == (8, 8)


def test_a_recipe_of_an_adapter_keeps_the_parts_of_its_base(place):
    recipe = plan("base", place, Path("out"), WANTED)
    changed = recipe.model_copy(update={"order": recipe.order.model_copy(update={"steps": 9})})
    with pytest.raises(RecipeError, match="it keeps the parts of base, and `order` is another here"):
        prepare(changed)
    with pytest.raises(RecipeError, match=r"adapter: it updates a trained model: set train.init_from"):
        plan("base", place, Path("out"), WANTED, ["train.init_from=null"])
    with pytest.raises(RecipeError, match="is a tokenizer, which draws nothing"):
        plan("vq-faces", place, Path("out"), WANTED)
