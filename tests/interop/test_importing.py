"""The frame of every import: key maps complete both ways, files that are read or refused, and nothing half-written."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.core.allocation import without_parameters
from jielong.interop import files, key_map
from jielong.interop.key_map import AS_IS, Dropped, KeyMap, KeyMapError, Row, each, given, joined, split, squeezed, transposed, unsqueezed
from jielong.interop.systems import RELEASES
from jielong.system import load
from jielong.system.model_card import SPDX
from jielong.training.checkpoint import WEIGHTS, CheckpointError, read_tensors

KEYS = KeyMap(
    rows=(
        Row(("layers.{i}.q", "layers.{i}.k"), "blocks.{i}.qk", joined(2)),
        Row("layers.{i}.both", ("blocks.{i}.first", "blocks.{i}.second"), split(2)),
        Row("layers.{i}.{half:up|down}.weight", "blocks.{i}.{half}", transposed()),
        Row("conv", "matrix", squeezed(2, 3)),
        Row("vector", "row", unsqueezed(0)),
        Row((), "ready", given(torch.tensor(True))),
        Row("bias", "bias"),
    ),
    dropped=(Dropped("layers.{i}.mask", "a mask"),),
)


def theirs() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    sizes = {"conv": (3, 2, 1, 1), "vector": (4,), "bias": (5,)}
    layers = {"q": (2, 3), "k": (2, 3), "both": (4,), "up.weight": (2, 6), "down.weight": (6, 2), "mask": (2, 2)}
    sizes |= {f"layers.{i}.{name}": size for i in range(12) for name, size in layers.items()}
    return {name: torch.randn(size, generator=draw) for name, size in sizes.items()}


def ours() -> dict[str, Tensor]:
    sizes = {"matrix": (3, 2), "row": (1, 4), "bias": (5,), "ready": ()}
    layers = {"qk": (4, 3), "first": (2,), "second": (2,), "up": (6, 2), "down": (2, 6)}
    sizes |= {f"blocks.{i}.{name}": size for i in range(12) for name, size in layers.items()}
    return {name: torch.empty(size, device="meta") for name, size in sizes.items()}


def test_a_key_map_gives_every_tensor_of_ours_and_leads_back() -> None:
    weights, expected = theirs(), ours()
    state = KEYS.apply(weights, expected)
    assert list(state) == list(expected)
    assert torch.equal(state["blocks.11.qk"], torch.cat([weights["layers.11.q"], weights["layers.11.k"]]))
    assert torch.equal(torch.cat([state["blocks.3.first"], state["blocks.3.second"]]), weights["layers.3.both"])
    assert torch.equal(state["blocks.0.down"], weights["layers.0.down.weight"].T)
    back = KEYS.invert(state)
    kept = {name for name in weights if not name.endswith("mask")}
    assert back.keys() == kept
    assert all(torch.equal(back[name], weights[name]) for name in kept)
    assert KEYS.changes(weights, expected) == [
        "1 squeezed", "1 given dimensions of size 1", "1 added", "12 joined", "24 split", "24 transposed", "12 left out: a mask"
    ]  # fmt: skip


def test_missing_and_unexpected_tensors_are_one_error_that_lists_them() -> None:
    weights = theirs()
    for i in range(12):
        del weights[f"layers.{i}.q"]
    weights |= {"layers.12.q": torch.zeros(1), "more": torch.zeros(1)}
    with pytest.raises(KeyMapError, match=r"12 missing \(layers\.0\.q, .*layers\.9\.q, and 2 more\); 2 unexpected \(layers\.12\.q, more\)"):
        KEYS.apply(weights, ours())


def test_tensors_of_another_shape_are_listed() -> None:
    with pytest.raises(KeyMapError, match=r"1 tensors \(bias \(6,\), not \(5,\)\)"):
        KEYS.apply(theirs() | {"bias": torch.zeros(6)}, ours())


def test_a_tensor_of_ours_without_a_row_is_an_error() -> None:
    with pytest.raises(KeyMapError, match=r"no row for 1 tensors of ours \(new\)"):
        KEYS.apply(theirs(), ours() | {"new": torch.empty(1)})


def test_an_export_names_what_has_no_inverse() -> None:
    keys = KeyMap((Row("a", "a", each("folded", torch.exp)), Row("b", "b", AS_IS)))
    state = keys.apply({"a": torch.zeros(1), "b": torch.zeros(1)}, {"a": torch.empty(1), "b": torch.empty(1)})
    with pytest.raises(KeyMapError, match=r"1 tensors \(a \(folded\)\)"):
        keys.invert(state)


def test_layers_are_counted_in_names() -> None:
    assert key_map.numbers(theirs(), "layers.{i}.q") == 12


@pytest.mark.parametrize("old_format", [False, True])
def test_the_averaged_weights_of_a_training_file_are_taken_and_named(tmp_path: Path, old_format: bool) -> None:
    last, ema = {"module.a": torch.zeros(2)}, {"module.a": torch.ones(2)}
    content = {"model": last, "ema": ema, "epoch": 3, "args": Namespace(lr=0.1)}
    torch.save(content, tmp_path / "run.pth", _use_new_zipfile_serialization=not old_format)
    source = files.read(tmp_path / "run.pth")
    assert torch.equal(source.weights["a"], torch.ones(2))
    assert source.notes == ("run.pth: took the weights under 'ema', not those under 'model'", "run.pth: names without 'module.'")
    assert torch.equal(files.read(tmp_path / "run.pth", ("model",)).weights["a"], torch.zeros(2))


def test_weights_two_keys_deep(tmp_path: Path) -> None:
    torch.save({"trainer": {"vae_local": {"a": torch.ones(1)}, "step": 1}}, tmp_path / "run.pt")
    assert list(files.read(tmp_path / "run.pt").weights) == ["a"]


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {"a": torch.ones(1)}, "extra": Harmful()}, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=r"run\.pt holds more than weights.*print.*safetensors"):
        files.read(tmp_path / "run.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.pt", b"PK\x03\x04 and no more", "no file of torch.save, or truncated|holds more than weights"),
        ("noise.pt", b"\xd5\x07\x81 no pickle", r"noise\.pt is damaged, or holds more than weights"),
        ("other.txt", b"", "unknown ending"),
        ("list.pt", [1, 2], "no weights that are known: it has list"),
        ("keys.pt", {"net": {"a": torch.ones(1)}}, "it has net, and weights are looked for under model_ema"),
    ],
)
def test_what_is_no_file_of_weights_is_named(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        files.read(path)


def test_a_folder_of_several_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"layers": 2}')
    for number in range(2):
        save_file({f"{number}": torch.full((1,), float(number))}, tmp_path / f"{number}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"0": "0.safetensors", "1": "1.safetensors"}}')
    source = files.read(tmp_path)
    assert source.config == {"layers": 2}
    assert {name: tensor.item() for name, tensor in source.weights.items()} == {"0": 0.0, "1": 1.0}


def test_parts_are_told_apart_by_their_tensors(tmp_path: Path) -> None:
    one, other = files.Source(tmp_path / "a", {"code": torch.ones(1)}), files.Source(tmp_path / "b", {"start": torch.ones(1)})
    assert files.parts([one, other], transformer="start", tokenizer="code") == {"tokenizer": one, "transformer": other}
    with pytest.raises(CheckpointError, match="both a tokenizer"):
        files.parts([one, one], transformer="start", tokenizer="code")
    with pytest.raises(CheckpointError, match="it has neither 'start' of a transformer; its first tensor is 'code'"):
        files.parts([one], transformer="start")
    with pytest.raises(CheckpointError, match="a transformer and a tokenizer, each in a file, and that of the transformer is missing"):
        files.parts([one], transformer="start", tokenizer="code")


def test_modules_built_without_parameters_take_given_ones_and_stay_tied() -> None:
    with without_parameters():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
        model[1].weight = model[0].weight
    assert model[0].weight.is_meta
    assert model[1].weight is model[0].weight
    assert not model[2].running_mean.is_meta
    assert not nn.Linear(2, 2).weight.is_meta


def test_every_release_has_a_reader_and_a_licence() -> None:
    for name, release in RELEASES.items():
        with pytest.raises(CheckpointError):
            release.read([Path("nowhere")])
        assert release.licence in SPDX, name


def test_the_command_lists_the_systems_alone() -> None:
    shown = CliRunner().invoke(app, ["import"])
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in RELEASES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = {"num_filters": 4, "hidden_size": 12, "upsampling_ratios": [4, 2], "codebook_size": 16, "sampling_rate": 8_000}
    path = tmp_path_factory.mktemp("theirs")
    transformers.EncodecModel(transformers.EncodecConfig(**config, target_bandwidths=[8.0])).save_pretrained(path)
    return path


def test_a_codec_becomes_a_checkpoint_with_a_card(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["import", "encodec", str(folder), "--out", str(tmp_path / "ours"), "--check"])
    assert done.exit_code == 0, done.stderr
    assert "SHA-256 of an output: " in done.stderr
    assert "license: mit" in (tmp_path / "ours" / "README.md").read_text()
    system = load(str(tmp_path / "ours"), "cpu")
    assert system.tokenizer.media.sample_rate == 8_000
    again = CliRunner().invoke(app, ["import", "encodec", str(folder), "--out", str(tmp_path / "ours")])
    assert again.exit_code == 2
    assert "exists: choose a new folder" in re.sub(r"[\s│]+", " ", again.stderr)  # a box whose lines are broken


@pytest.mark.parametrize(("change", "message"), [({}, "lacks"), ({"encoder.layers.0.conv.bias": torch.nan}, "not finite")])
def test_nothing_is_left_of_an_import_that_fails(folder: Path, tmp_path: Path, change: dict[str, float], message: str) -> None:
    weights = read_tensors(folder / WEIGHTS)
    other = tmp_path / "theirs"
    other.mkdir()
    (other / "config.json").write_bytes((folder / "config.json").read_bytes())
    kept = {name: tensor for name, tensor in weights.items() if change or "lstm" not in name}
    save_file(kept | {name: torch.full_like(weights[name], value) for name, value in change.items()}, other / WEIGHTS)
    done = CliRunner().invoke(app, ["import", "encodec", str(other), "--out", str(tmp_path / "ours")])
    assert done.exit_code == 1
    assert message in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


def test_sizes_that_no_recipe_describes_are_an_error_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "theirs"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text()) | {"sampling_rate": 800, "target_bandwidths": [0.8]}
    (other / "config.json").write_text(json.dumps(config))
    done = CliRunner().invoke(app, ["import", "encodec", str(other), "--out", str(tmp_path / "ours")])
    assert done.exit_code == 1
    assert "no recipe can describe these weights: data.sample_rate" in done.stderr
    assert not (tmp_path / "ours").exists()


def test_an_unknown_system_and_no_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({}))
    done = CliRunner().invoke(app, ["import", "encodek", str(tmp_path / "a.pt"), "--out", str(tmp_path / "ours")])
    assert done.exit_code == 1
    assert "did you mean 'encodec'?" in done.stderr
    assert "a folder of transformers" in re.sub(r"[\s│]+", " ", CliRunner().invoke(app, ["import", "encodec"]).stderr)
