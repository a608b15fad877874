"""Adapters are pushed, fetched and applied by their address; a repository of the other kind is refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hub_models import files_of, make_generator, make_tokenizer
from huggingface_hub import ModelCard
from local_hub import LocalHub, Repository
from typer.testing import CliRunner

import jielong
from jielong.apps.cli import app
from jielong.config.hub_address import parse_address
from jielong.networks import lora
from jielong.system import hub
from jielong.system.adapters import AdapterRecord, parse_reference, write_adapter
from jielong.system.pushing import push
from jielong.training.checkpoint import ADAPTER, CHECKSUMS, CheckpointError, fingerprint

ADDRESS = "hf://me/style"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_generator(tmp_path / "base", str(make_tokenizer(tmp_path / "vq")))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """The folder of a run that trained an adapter of ``base``, of random factors."""
    generator, draw = jielong.load(base, "cpu").generator, torch.Generator().manual_seed(0)
    assert generator is not None
    tensors = {}
    for name in lora.projections(generator, ("backbone", "head")):
        layer = generator.get_submodule(name)
        tensors[name + lora.A] = torch.randn(2, layer.in_features, generator=draw)  # type: ignore[call-overload]
        tensors[name + lora.B] = torch.randn(layer.out_features, 2, generator=draw)  # type: ignore[call-overload]
    record = AdapterRecord("@style", str(base), fingerprint(generator), "lora", rank=2, alpha=3.0, pictures=4, licence="mine")
    write_adapter(tmp_path / "run" / ADAPTER, record, tensors)
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "run" / "state-1").mkdir()
    (tmp_path / "run" / "state-1" / "notes.txt").write_text("of this machine")
    return tmp_path / "run"


def test_what_is_pushed_is_applied_by_its_address(server: LocalHub, base: Path, adapter: Path) -> None:
    pushed = push(str(adapter), "me/style")
    tree = server.repositories["me/style"].commits[pushed.address.revision or ""]
    assert set(tree) == {ADAPTER, CHECKSUMS, "README.md", "metrics.jsonl", ".gitattributes"}
    here, there = (jielong.load(base, "cpu", adapters=[f"{name}:0.5"]) for name in (adapter, ADDRESS))
    assert here.generator is not None
    assert there.generator is not None
    assert fingerprint(here.generator) == fingerprint(there.generator) != fingerprint(jielong.load(base, "cpu").generator)  # type: ignore[arg-type]
    copy = hub.pull(parse_address(ADDRESS), base.parent / "copy")
    assert (copy / ADAPTER).read_bytes() == (adapter / ADAPTER).read_bytes()


def test_the_card_says_whose_adapter_it_is(server: LocalHub, base: Path, adapter: Path) -> None:
    pushed = push(str(adapter / ADAPTER), "me/style")  # the file alone is an adapter too
    card = ModelCard(server.repositories["me/style"].commits[pushed.address.revision or ""]["README.md"].decode())
    assert (card.data.library_name, card.data.tags, card.data.license) == ("jielong", ["adapter", "lora"], "unknown")
    assert f"An adapter of `{base}`, called `@style`" in card.text
    said = " ".join(pushed.notes)
    assert f"its model is {base}, a folder of this machine" in said
    assert "trained on 4 pictures, whose licence is mine" in said


def test_the_other_kind_of_repository_is_refused(server: LocalHub, base: Path, adapter: Path) -> None:
    push(str(adapter), "me/style")
    server.repositories["me/model"] = Repository()
    server.repositories["me/model"].commit(files_of(base))
    with pytest.raises(CheckpointError, match=f"holds an adapter, not a model: .* with --adapter {ADDRESS}"):
        jielong.load(ADDRESS, "cpu")
    with pytest.raises(CheckpointError, match=r"hf://me/model is no adapter of Jielong: the repository has no adapter\.safetensors"):
        jielong.load(base, "cpu", adapters=["hf://me/model"])
    with pytest.raises(CheckpointError, match="is no address of a checkpoint"):
        jielong.load(base, "cpu", adapters=["hf://model"])


def test_nothing_is_sent_of_a_damaged_adapter(server: LocalHub, adapter: Path) -> None:
    (adapter / ADAPTER).write_bytes(b"not one")
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors"):
        push(str(adapter), "me/style")
    with pytest.raises(CheckpointError, match="there is no adapter called '@nobody'"):
        push("@nobody", "me/style")
    assert not server.requests


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ADDRESS, (ADDRESS, 1.0)),
        (f"{ADDRESS}:0.8", (ADDRESS, 0.8)),
        (f"{ADDRESS}@v1", (f"{ADDRESS}@v1", 1.0)),
        (f"{ADDRESS}@v1:-2", (f"{ADDRESS}@v1", -2.0)),
    ],
)
def test_an_address_may_have_a_weight(text: str, expected: tuple[str, float]) -> None:
    assert parse_reference(text) == expected


def test_a_weight_of_an_address_is_a_number() -> None:
    with pytest.raises(ValueError, match=f"is a number such as 0.8, not much: write {ADDRESS}:0.8"):
        parse_reference(f"{ADDRESS}:much")


def test_the_recipe_of_a_repository_is_trained(server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repositories["me/vq"] = Repository()
    server.repositories["me/vq"].commit(files_of(make_tokenizer(tmp_path / "vq")))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", "hf://me/vq", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "vq" / "model.safetensors").is_file()
