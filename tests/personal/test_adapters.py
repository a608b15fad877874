"""Adapters as files: found, refused on another base, combined by the sum of weighted updates, merged into a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from subjects import checkpoint
from torch import Tensor

import jielong
from jielong.networks import lora
from jielong.system import load
from jielong.system.adapters import (
    AdapterRecord,
    find_adapter,
    listed,
    parse_reference,
    read_adapter,
    read_record,
    write_adapter,
)
from jielong.system.merging import merge
from jielong.training.checkpoint import ADAPTER, CheckpointError, fingerprint, write_tensors

RECORD = AdapterRecord("@me", "base", "", "lora", rank=2, alpha=3.0, pictures=4, licence="mine")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    checkpoint(Path("base"))
    return "base"


def written(name: str, base: str, seed: int, zero: bool = False) -> dict[str, Tensor]:
    """An adapter of random factors in the folder of its name; its factors."""
    generator, draw = load(base, "cpu").generator, torch.Generator().manual_seed(seed)
    assert generator is not None
    tensors = dict[str, Tensor]()
    for each in lora.projections(generator, ("backbone", "head")):
        layer = generator.get_submodule(each)
        tensors[each + lora.A] = torch.randn(2, layer.in_features, generator=draw)
        tensors[each + lora.B] = torch.randn(layer.out_features, 2, generator=draw) * (0.0 if zero else 0.3)
    record = replace(RECORD, name=name, base=base, base_sha256=fingerprint(generator))
    write_adapter(Path("adapters") / name / ADAPTER, record, tensors)
    return tensors


def weights(*references: str) -> dict[str, Tensor]:
    generator = jielong.load("base", "cpu", adapters=references).generator
    assert generator is not None
    return generator.state_dict()


def test_the_sum_of_weighted_updates_is_added(base):
    one, two = written("@me", base, 1), written("@you", base, 2)
    plain, both = weights(), weights("@me:0.8", "@you:-0.5")
    updates = [lora.updates(each, 3.0 / 2) for each in (one, two)]
    for name, value in both.items():
        layer = name.removesuffix(".weight")
        if layer in updates[0]:
            value = value - (0.8 * updates[0][layer] - 0.5 * updates[1][layer])
        torch.testing.assert_close(value, plain[name], rtol=0, atol=1e-5)
    turned = weights("@you:-0.5", "@me:0.8")
    for name, value in both.items():
        torch.testing.assert_close(turned[name], value, rtol=0, atol=1e-6)


def test_zero_updates_and_the_weight_zero_change_no_bit(base):
    written("@me", base, 1)
    written("@none", base, 1, zero=True)
    plain = weights()
    for references in (["@me:0"], ["@none"]):
        assert all(torch.equal(value, plain[name]) for name, value in weights(*references).items())
    assert not torch.equal(weights("@me")["backbone.blocks.0.attention.qkv.weight"], plain["backbone.blocks.0.attention.qkv.weight"])
    assert jielong.load(base, "cpu", adapters=["@me:0.5"]).name == "base + @me:0.5"


def test_a_merged_checkpoint_is_an_ordinary_one(base):
    written("@me", base, 1)
    merge(base, ["@me:0.8"], Path("merged"))
    stored, applied = load("merged", "cpu").generator, weights("@me:0.8")
    assert stored is not None
    assert all(torch.equal(value, applied[name]) for name, value in stored.state_dict().items())
    with pytest.raises(CheckpointError, match="merged exists: choose a new folder"):
        merge(base, ["@me"], Path("merged"))


def test_another_base_is_refused_by_name(base):
    written("@me", base, 1)
    checkpoint(Path("other"), seed=1)
    with pytest.raises(CheckpointError, match=r"the adapter @me \(adapters/@me/adapter.safetensors\) belongs to base .* load base"):
        load("other", "cpu", adapters=["@me"])
    with pytest.raises(CheckpointError, match="adapters/@me holds an adapter, not a model"):
        load("adapters/@me", "cpu")


def test_damage_and_other_files_are_refused(base):
    tensors = written("@me", base, 1)
    path = find_adapter("@me")
    record = read_record(path)
    assert (record.name, record.rank, record.licence) == ("@me", 2, "mine")
    layer = "backbone.blocks.0.attention.qkv"
    for name, changed, says in (
        ("@half", {key: value for key, value in tensors.items() if key != layer + lora.A}, f"one of the two factors of {layer} is missing"),
        ("@odd", {**tensors, layer + lora.A: torch.zeros(2, 3)}, r"its factors of .* are \(2, 3\)"),
        ("@far", {"nowhere" + lora.A: torch.zeros(2, 3), "nowhere" + lora.B: torch.zeros(3, 2)}, "updates nowhere, and the model has no"),
    ):
        write_adapter(Path("adapters") / f"{name}.safetensors", replace(record, name=name), changed)
        with pytest.raises(CheckpointError, match=says):
            load(base, "cpu", adapters=[name])
    write_adapter(Path("adapters/@nan.safetensors"), record, {layer + lora.A: torch.full((2, 16), torch.nan)})
    with pytest.raises(CheckpointError, match="not finite"):
        read_adapter(find_adapter("@nan"))
    write_tensors(Path("adapters/plain.safetensors"), tensors)
    with pytest.raises(CheckpointError, match="is no adapter"):
        read_record(Path("adapters/plain.safetensors"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError):
        load(base, "cpu", adapters=["@me"])


def test_they_are_found_by_name_and_path(base):
    written("@me", base, 1)
    write_adapter(Path("adapters/@you.safetensors"), replace(RECORD, name="@you"), {})
    assert [(each.record.name, each.path.as_posix()) for each in listed()] == [
        ("@me", "adapters/@me/adapter.safetensors"),
        ("@you", "adapters/@you.safetensors"),
    ]
    Path("adapters/@cut.safetensors").write_bytes(Path("adapters/@you.safetensors").read_bytes()[:20])
    with pytest.warns(UserWarning, match=r"adapters/@cut\.safetensors is left out: "):
        assert [each.record.name for each in listed()] == ["@me", "@you"]
    Path("adapters/@cut.safetensors").unlink()
    assert find_adapter("adapters/@me") == find_adapter("@me") == find_adapter("adapters/@me/adapter.safetensors")
    with pytest.raises(CheckpointError, match=r"no adapter called '@mee' and no such file; did you mean '@me'\?"):
        find_adapter("@mee")
    assert parse_reference("@me:0.8") == ("@me", 0.8)
    assert parse_reference("folder/@me") == ("folder/@me", 1.0)
    with pytest.raises(ValueError, match=r"a number such as 0.8, not inf"):
        parse_reference("@me:inf")
    with pytest.raises(ValueError, match=r"a number such as 0.8, not x: write @me:0.8"):
        parse_reference("@me:x")
    Path("odd:name").touch()
    assert parse_reference("odd:name") == ("odd:name", 1.0)
