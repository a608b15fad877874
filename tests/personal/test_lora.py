"""Low-rank updates: zero at first, merged equals unmerged equals peft's own, and each fast path has them."""

from __future__ import annotations

import copy
from pathlib import Path

import peft
import pytest
import torch
from subjects import FLOW, MASKED, RASTER, checkpoint, loss_of

from jielong.config.adapter import LoraSettings
from jielong.generation.generator import Generator
from jielong.networks import lora
from jielong.networks.eligibility import fused_inference
from jielong.system import load

TEXTS = ["a picture of @me", "a red square"]
CASES = {"masked": MASKED, "raster": RASTER, "flow": FLOW}
ALL = tuple(lora.KINDS[:2])


def generator(folder: Path, case: str) -> Generator:
    found = load(checkpoint(folder, CASES[case]), "cpu").generator
    assert found is not None
    return found


def wrapped(model: Generator, rank: int = 2, random: bool = True) -> Generator:
    torch.manual_seed(1)
    lora.inject(model, lora.chosen(lora.projections(model, ("backbone", "head")), ALL), rank, 4.0)
    if random:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter += 0.2 * torch.randn(parameter.shape)
    return model


@pytest.mark.parametrize("case", CASES)
def test_an_untrained_update_changes_nothing(case, tmp_path):
    plain, updated = generator(tmp_path / "a", case), wrapped(generator(tmp_path / "b", case), random=False)
    torch.testing.assert_close(loss_of(updated, TEXTS), loss_of(plain, TEXTS), rtol=0, atol=1e-6)
    total = lora.updates(lora.factors(updated), 2.0)
    assert total
    assert not any(update.any() for update in total.values())
    before = copy.deepcopy(plain.state_dict())
    lora.add_updates(plain, total)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("case", CASES)
def test_merged_equals_unmerged_equals_that_of_peft(case, tmp_path):
    unmerged, merged = wrapped(generator(tmp_path / "a", case)), generator(tmp_path / "b", case)
    plain = loss_of(merged, TEXTS)
    tensors = lora.factors(unmerged)
    lora.check_factors(merged, tensors, 2)
    lora.add_updates(merged, lora.updates(tensors, 4.0 / 2))
    assert abs(loss_of(merged, TEXTS) - plain) > 1e-4
    torch.testing.assert_close(loss_of(merged, TEXTS), loss_of(unmerged, TEXTS), rtol=1e-5, atol=1e-5)
    # peft reads the same tensors by their names into a model of its own, and merges it itself.
    names = sorted({name.removesuffix(lora.A).removesuffix(lora.B) for name in tensors})
    theirs = peft.get_peft_model(generator(tmp_path / "c", case), peft.LoraConfig(r=2, lora_alpha=4.0, target_modules=names))
    result = peft.set_peft_model_state_dict(theirs, {f"base_model.model.{name}": value for name, value in tensors.items()})
    assert not result.unexpected_keys
    torch.testing.assert_close(loss_of(theirs.base_model.model, TEXTS), loss_of(merged, TEXTS), rtol=1e-5, atol=1e-5)
    own = theirs.merge_and_unload().state_dict()
    assert own.keys() == merged.state_dict().keys()
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(own[name], value, rtol=1e-5, atol=1e-6)
    assert all(torch.linalg.matrix_rank(update) <= 2 for update in lora.updates(tensors, 2.0).values())


@pytest.mark.parametrize("case", ["masked", "raster"])
def test_fused_and_cached_sampling_have_the_update(case, tmp_path):
    unmerged, merged = wrapped(generator(tmp_path / "a", case)), generator(tmp_path / "b", case)
    lora.add_updates(merged, lora.updates(lora.factors(unmerged), 2.0))
    drawn = [model.generate(TEXTS, seed=3).values for model in (merged, unmerged.eval())]
    with fused_inference(False):
        drawn.append(merged.generate(TEXTS, seed=3).values)
    drawn.append(merged.generate(TEXTS, seed=3, cache=False).values)
    assert not torch.equal(drawn[0], generator(tmp_path / "c", case).generate(TEXTS, seed=3).values)
    for other in drawn[1:]:
        assert (other == drawn[0]).float().mean() > 0.97  # rounding may flip a token that is nearly as likely as another


def test_targets_are_kinds_or_names(tmp_path):
    available = lora.projections(generator(tmp_path, "raster"), ("backbone", "head"))
    assert set(available.values()) == {"attention", "mlp"}
    assert lora.chosen(available, ["qkv"]) == [f"backbone.blocks.{layer}.attention.qkv" for layer in (0, 1)]
    assert lora.chosen(available, ["attention", "q", "mlp"]) == sorted(available)
    with pytest.raises(ValueError, match=r"there is no map 'qvk' to update: this model has .*attention.*qkv"):
        lora.chosen(available, ["qvk"])
    assert LoraSettings(rank=4, alpha=8).scale == 2.0
    assert LoraSettings(rank=4).scale == 1.0
