"""Damaged weights are refused when they are loaded, and named by ``verify``; a model that is too large is refused before it is built."""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.core.allocation import MODULES, TooLargeError, bounded, memory_limit
from jielong.system import load, zoo
from jielong.system.verifying import verify
from jielong.training.checkpoint import (
    CHECKSUMS,
    MAX_HEADER,
    WEIGHTS,
    CheckpointError,
    check_checksum,
    load_weights,
    read_tensors,
    save_checkpoint,
    write_checksums,
)

SMALL = "pixelcnn-fashion"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the smallest shipped model."""
    return shutil.copytree(zoo()[SMALL], tmp_path / "model")


def change(folder: Path, tensor: str, value: float) -> None:
    """Set one number of a checkpoint, and record the file's new checksum."""
    tensors = load_file(folder / WEIGHTS)
    tensors[tensor].view(-1)[0] = value
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_checksums(folder, [WEIGHTS])


def test_every_flipped_bit_is_found(copied: Path) -> None:
    whole, draw = (copied / WEIGHTS).read_bytes(), random.Random(0)
    for place in [0, 7, 8, 100, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(20))]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        (copied / WEIGHTS).write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            load(str(copied), "cpu")
        assert not verify(str(copied)).sound


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_names_its_tensor(value: float, copied: Path) -> None:
    name = next(iter(load_file(copied / WEIGHTS)))
    change(copied, name, value)
    with pytest.raises(CheckpointError, match=f"1 of [0-9,]+ values of the tensor '{name}' are not finite"):
        load(str(copied), "cpu")


def test_a_type_that_cannot_be_checked_is_named(copied: Path) -> None:
    tensors = load_file(copied / WEIGHTS)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name].to(torch.float8_e4m3fn)}, copied / WEIGHTS)
    write_checksums(copied, [WEIGHTS])
    with pytest.raises(CheckpointError, match=f"'{name}' is of torch.float8_e4m3fn; convert it"):
        load(str(copied), "cpu")
    assert any("torch.float8_e4m3fn" in file.problem for file in verify(str(copied)).files)


def test_weights_without_a_checksum_load_with_a_warning(copied: Path) -> None:
    (copied / CHECKSUMS).unlink()
    with pytest.warns(UserWarning, match=f"has no {CHECKSUMS} beside it"):
        load(str(copied), "cpu")
    found = verify(str(copied))
    assert found.sound
    assert {file.checksum for file in found.files} == {"not recorded"}


@pytest.mark.parametrize("text", ["", "123  model.safetensors\n", "\udcff", "a" * 64 + "  ../recipe.yaml\n"])
def test_a_damaged_list_of_checksums_is_refused(text: str, copied: Path) -> None:
    (copied / CHECKSUMS).write_text(text, "utf-8", "surrogateescape")
    with pytest.raises(CheckpointError, match=f"{CHECKSUMS} is damaged"):
        load(str(copied), "cpu")
    assert not verify(str(copied)).sound


def test_sha256sum_reads_the_list(tmp_path: Path) -> None:
    # of the empty string and of "abc": FIPS 180-2
    (tmp_path / "abc").write_bytes(b"abc")
    (tmp_path / "nothing").touch()
    write_checksums(tmp_path, ["nothing", "abc"])
    assert (tmp_path / CHECKSUMS).read_text() == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  abc\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  nothing\n"
    )
    assert check_checksum(tmp_path / "abc")
    assert not check_checksum(tmp_path / CHECKSUMS)


def test_a_killed_save_leaves_no_wrong_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, nn.Linear(2, 2), "")
    with monkeypatch.context() as patch:
        patch.setattr("jielong.training.checkpoint.write_checksums", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_checkpoint(tmp_path, nn.Linear(2, 2), "")
    with pytest.warns(UserWarning, match="has no"):
        load_weights(nn.Linear(2, 2), tmp_path)


def test_all_shipped_models_carry_their_checksum() -> None:
    assert all(check_checksum(folder / WEIGHTS) for folder in zoo().values())


def test_a_tensor_of_another_kind_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, nn.Linear(2, 2), "")
    save_file({"weight": torch.ones(2, 2, dtype=torch.int64), "bias": torch.ones(2)}, tmp_path / WEIGHTS)
    write_checksums(tmp_path, [WEIGHTS])
    with pytest.raises(CheckpointError, match=r"'weight' is of torch\.int64, but the model's is of torch\.float32"):
        load_weights(nn.Linear(2, 2), tmp_path)


def test_a_header_that_is_too_long_is_not_parsed(tmp_path: Path) -> None:
    with open(tmp_path / WEIGHTS, "wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1) + b"{")
        file.truncate(MAX_HEADER + 100)
    with pytest.raises(CheckpointError, match=f"header of {MAX_HEADER + 9:,} bytes"):
        read_tensors(tmp_path / WEIGHTS)


def test_a_recipe_that_describes_a_larger_model_than_its_weights_is_refused_before_it_is_built(copied: Path) -> None:
    recipe = copied / "recipe.yaml"
    recipe.write_text(re.sub(r"width: \d+", "width: 60000", recipe.read_text()))
    assert "60000" in recipe.read_text()
    with pytest.raises(TooLargeError, match=r"needs at least .* GB, and .*model\.safetensors holds 0\.0 GB"):
        load(str(copied), "cpu")
    assert verify(str(copied)).loads is False


def test_what_a_model_takes_is_counted() -> None:
    with bounded(4 * (3 * 5 + 5), "there is less"):
        nn.Linear(3, 5)
    with pytest.raises(TooLargeError, match="there is less"), bounded(4 * (3 * 5 + 5) - 1, "there is less"):
        nn.Linear(3, 5)
    for make in (torch.zeros, torch.randn, lambda *size: torch.full(size, 1.0), lambda a, b: torch.arange(float(a * b))):
        with bounded(400, "x"):
            assert make(10, 10).nbytes == 400
        with pytest.raises(TooLargeError), bounded(399, "x"):
            make(10, 10)
    with pytest.raises(TooLargeError, match="modules"), bounded(1 << 40, "x"):
        nn.Sequential(*(nn.Identity() for _ in range(MODULES + 1)))
    assert 0 < memory_limit() <= 1 << 40
    nn.Linear(100, 100)  # outside nothing is counted


def test_what_is_built_in_bounds_is_what_is_built_without() -> None:
    one, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    with bounded(1 << 20, "x"):
        inside = torch.randn(4, 4, generator=one)
    assert torch.equal(inside, torch.randn(4, 4, generator=other))


def test_verify_names_what_is_wrong(copied: Path) -> None:
    assert verify(SMALL).sound
    assert json.loads(json.dumps(verify(str(copied)).to_json()))["sound"] is True
    (copied / "recipe.yaml").write_text("train: {samples: many}\n")
    found = verify(str(copied))
    assert [file.path for file in found.files if file.problem] == ["recipe.yaml"]
    assert found.loads is False
    (copied / "recipe.yaml").unlink()
    assert any("recipe.yaml" in problem for problem in verify(str(copied)).problems)
    (copied / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"has no recipe\.yaml"):
        verify(str(copied))


def test_the_command_exits_with_1_if_anything_is_wrong(copied: Path) -> None:
    ran = CliRunner().invoke(app, ["verify", str(copied)])
    assert ran.exit_code == 0
    assert "matches" in ran.stdout
    assert "nothing is wrong: the model loads" in ran.stderr
    change(copied, next(iter(load_file(copied / WEIGHTS))), float("nan"))
    ran = CliRunner().invoke(app, ["verify", str(copied), "--json"])
    assert ran.exit_code == 1
    assert "are not finite" in json.loads(ran.stdout)["files"][1]["problem"]
    ran = CliRunner().invoke(app, ["verify", str(copied)])
    assert ran.exit_code == 1
    assert "damaged: the model does not load" in ran.stderr


@pytest.mark.parametrize(("size", "channels"), [([10**9, 10**9], 1), ([-28, -28], 1), ([0, 28], 1), ([28, 28], 10**12)])
def test_media_that_nothing_holds_are_damage(size: list[int], channels: int, copied: Path) -> None:
    description = json.loads((copied / "model.json").read_text())
    description["media"] |= {"size": size, "channels": channels}
    (copied / "model.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=r"model\.json is damaged"):
        load(str(copied), "cpu")
