"""``train.lora``: low-rank updates of a generator on any data: resumed as uninterrupted, merged as unmerged, the base unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from subjects import FLOW, MASKED, checkpoint, loss_of, pictures
from torch import nn

from jielong.config.recipe import parse
from jielong.config.registry import RecipeError
from jielong.networks import lora
from jielong.system import load
from jielong.system.adapters import find_adapter, read_adapter
from jielong.training.adapter_objective import AdapterObjective
from jielong.training.experiment import prepare, run
from jielong.training.objectives import generator_objective

TRAIN = ["train.samples=24", "train.batch=4", "train.warmup=4", "train.lr=1e-2", "train.precision=fp32", "train.save_every=8"]
TEXTS = ["red", "blue"]
CONVOLUTIONS = FLOW.replace("{dit: {layers: 2, width: 16, heads: 2}}", "{unet: {channels: [16], blocks: 1, head_width: 8, groups: 4}}")


def recipe(folder: Path, text: str, targets: str, base: str | None = None):
    start = base or checkpoint(folder / "base", text)
    lora_settings = f"train.lora={{rank: 2, alpha: 4, targets: [{targets}]}}"
    return parse(text, overrides=[*TRAIN, f"train.init_from={start}", lora_settings])


def with_captions(folder: Path) -> str:
    (pictures(folder, 8) / "metadata.csv").write_text("file_name,caption\n" + "".join(f"{index}.png,red {index}\n" for index in range(8)))
    return str(folder)


def test_a_resumed_run_equals_an_uninterrupted_one_and_is_an_adapter(tmp_path: Path) -> None:
    data, settings = with_captions(tmp_path / "data"), recipe(tmp_path, MASKED, "attention, backbone.blocks.1.feed_forward")
    run(settings, tmp_path / "whole", data, device="cpu", progress=False)
    run(settings, tmp_path / "parts", data, device="cpu", progress=False, stop_after=8)
    run(settings, tmp_path / "parts", data, device="cpu", progress=False)
    whole, parts = (read_adapter(find_adapter(str(tmp_path / name))) for name in ("whole", "parts"))
    assert all(torch.equal(value, parts.tensors[name]) for name, value in whole.tensors.items())
    assert (whole.record.name, whole.record.method, whole.record.rank, whole.record.alpha) == ("whole", "lora", 2, 4.0)
    assert not (tmp_path / "whole" / "model.safetensors").exists()
    assert whole.path.stat().st_size < (tmp_path / "base" / "model.safetensors").stat().st_size
    assert any(value.any() for name, value in whole.tensors.items() if name.endswith(lora.B))
    maps = {name.rpartition(".lora")[0] for name in whole.tensors}
    assert {name for name in maps if "feed_forward" in name} == {name for name in maps if name.startswith("backbone.blocks.1.feed_forward")}
    plain, updated = load(str(tmp_path / "base"), "cpu"), load(str(tmp_path / "base"), "cpu", adapters=[str(tmp_path / "whole")])
    assert updated.name.endswith("+ whole:1")
    assert plain.generator is not None
    assert updated.generator is not None
    assert not torch.equal(loss_of(plain.generator, TEXTS), loss_of(updated.generator, TEXTS))


@pytest.mark.parametrize("case", ["masked", "convolutions"])
def test_merged_equals_unmerged_for_maps_of_any_kind(case: str, tmp_path: Path) -> None:
    """Also for convolutions, and maps outside of repeated blocks."""
    text, target = (MASKED, "backbone.*") if case == "masked" else (CONVOLUTIONS, "head.*")
    base = checkpoint(tmp_path / "base", text)
    unmerged, merged = load(base, "cpu").generator, load(base, "cpu").generator
    assert unmerged is not None
    assert merged is not None
    names = lora.chosen({}, [target], lora.maps(unmerged))
    kinds = {type(unmerged.get_submodule(name)) for name in names}
    assert kinds == ({nn.Linear} if case == "masked" else {nn.Linear, nn.Conv2d})
    torch.manual_seed(1)
    lora.inject(unmerged, names, 2, 4.0)
    calls = lora.Calls(unmerged)
    with torch.no_grad():
        for name, parameter in unmerged.named_parameters():
            if ".lora_B." in name:
                parameter += 0.2 * torch.randn(parameter.shape)
    tensors = lora.factors(unmerged)
    lora.check_factors(merged, tensors, 2)
    before = loss_of(merged, TEXTS)
    lora.add_updates(merged, lora.updates(tensors, 4.0 / 2))
    after = loss_of(merged, TEXTS)
    assert abs(after - before) > 1e-4
    torch.testing.assert_close(loss_of(unmerged, TEXTS), after, rtol=1e-4, atol=1e-5)
    assert not calls.missing


def test_maps_that_nothing_calls_are_named(tmp_path: Path) -> None:
    objective = generator_objective(prepare(recipe(tmp_path, MASKED, "backbone.blocks.0.attention.qkv"), with_captions(tmp_path / "data")))
    assert isinstance(objective, AdapterObjective)
    assert "backbone.blocks.0.attention.qkv: nothing calls these maps" in str(objective.advice())
    loss_of(objective.model, TEXTS)
    assert objective.advice() is None


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ("qvk", r"train\.lora: there is no map 'qvk' to update: this model has .*qkv"),
        ("backbone.blocks.0-7", r"train\.lora: 'backbone\.blocks\.0-7' matches nothing at backbone\.blocks\.2; backbone\.blocks has"),
    ],
)
def test_a_target_that_is_none_is_refused(targets: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=says):
        prepare(recipe(tmp_path, MASKED, targets), with_captions(tmp_path / "data"))


def test_other_parts_than_the_base_has_are_refused(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", MASKED)
    with pytest.raises(RecipeError, match=r"train\.lora: it keeps the parts of .*base, and `backbone` is another here"):
        prepare(recipe(tmp_path, MASKED.replace("layers: 2", "layers: 3"), "attention", base))


def test_tokenizers_and_frozen_parts_are_refused(tmp_path: Path) -> None:
    text = "data: {set: emoji, size: 8}\ntokenizer: {vq: {}}\nlosses: {regression: {kind: l2}}\ntrain: {samples: 8}\n"
    with pytest.raises(RecipeError, match=r"train\.lora updates a generator, and this recipe trains a tokenizer"):
        parse(text, overrides=["train.init_from=vq-emoji", "train.lora={}"])
    with pytest.raises(RecipeError, match=r"lora keeps all weights of its model as they are"):
        parse(MASKED, overrides=["train.init_from=maskgit-emoji", "train.lora={}", "train.freeze=[head]"])
