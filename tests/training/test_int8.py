"""Matrices in eight bits: the error is bounded, what is on the grid survives, and a wrong pair of tensors is named."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jielong.quantizers.gumbel import Gumbel, GumbelQuantizer
from jielong.system import load, zoo
from jielong.system.verifying import verify
from jielong.training.checkpoint import (
    WEIGHTS,
    CheckpointError,
    fingerprint,
    init_from_checkpoint,
    load_weights,
    read_tensors,
    save_checkpoint,
    write_checksums,
)
from jielong.training.int8 import DATA, SCALE, SMALLEST, dequantize, quantizable, quantize

SMALL = "pixelcnn-fashion"


class Model(nn.Module):
    """A kernel, a matrix, biases, a large norm, a quantizer with a parametric codebook, and statistics."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(16, 32, 3)
        self.norm = nn.LayerNorm(5000)
        self.inner = nn.ModuleDict({"quantizer": GumbelQuantizer(Gumbel(codebook_size=1024), 8)})
        self.linear = nn.Linear(128, 64)
        self.register_buffer("statistics", torch.randn(64, 128))


@pytest.mark.parametrize("shape", [(64, 128), (40, 7, 5, 3), (1, 5000)])
@pytest.mark.parametrize("magnitude", [1e-42, 1e-38, 1e-3, 1.0, 1e37])
def test_the_error_is_at_most_half_a_scale(shape: tuple[int, ...], magnitude: float) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * magnitude
    value[0] *= 1e-3
    data, scale = quantize(value)
    assert (data.dtype, data.shape, scale.shape) == (torch.int8, value.shape, (shape[0], *[1] * (len(shape) - 1)))
    back = dequantize({"w" + DATA: data, "w" + SCALE: scale})["w"]
    assert back.dtype == torch.float32
    assert bool(((back.double() - value.double()).abs() <= scale.double() / 2).all())


def test_every_ratio_of_maximum_and_scale_rounds_to_127() -> None:
    """Maxima within an octave, about every scale of 8 significant bits and half way to the next."""
    ends = torch.arange(128, 256).float()[:, None] / 128 * 127
    value = torch.cat([ends * (1 + shift) for shift in torch.linspace(-(2**-8), 2**-8, 65).tolist()])
    assert bool((quantize(value)[0] == 127).all())


def test_a_matrix_on_the_grid_survives_and_is_quantized_to_the_same_bytes() -> None:
    draw = torch.Generator().manual_seed(0)
    data = torch.randint(-127, 128, (256, 64), generator=draw, dtype=torch.int8)
    data[:, 3] = 127
    data[0] = 0  # a row of zeros
    scale = (torch.randn(256, 1, generator=draw).exp() * 1e-3).bfloat16()
    scale[0] = torch.finfo(torch.bfloat16).tiny
    value = dequantize({"w" + DATA: data, "w" + SCALE: scale})["w"]
    assert torch.equal(value.double(), data.double() * scale.double())
    again, scales = quantize(value)
    assert torch.equal(again, data)
    assert torch.equal(scales, scale)


def test_matrices_are_stored_in_eight_bits_and_codebooks_as_they_are(tmp_path: Path) -> None:
    model = Model()
    save_checkpoint(tmp_path, model, "", dtype="int8")
    stored = load_file(tmp_path / WEIGHTS)
    for name in ("conv.weight", "linear.weight"):
        assert (stored[name + DATA].dtype, stored[name + SCALE].dtype, name in stored) == (torch.int8, torch.bfloat16, False)
    assert {stored[name].dtype for name in ("conv.bias", "linear.bias", "norm.weight")} == {torch.bfloat16}
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        assert "int8" in file.metadata()["quantization"]
    other = Model(1)
    load_weights(other, tmp_path)
    for one, same in zip(other.inner["quantizer"].parameters(), model.inner["quantizer"].parameters(), strict=True):
        assert torch.equal(one, same)
    assert torch.equal(other.statistics, model.statistics)
    assert not quantizable(torch.zeros(SMALLEST, 1))  # scales would take more than the values
    assert not quantizable(torch.zeros(SMALLEST - 64).view(-1, 64))
    assert not quantizable(torch.zeros(64, 64, dtype=torch.long))


def test_saving_what_was_loaded_writes_the_same_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "one", Model(), "", dtype="int8")
    model = Model(1)
    load_weights(model, tmp_path / "one")
    save_checkpoint(tmp_path / "other", model, "", dtype="int8")
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "other" / WEIGHTS).read_bytes()
    begun = Model(2)
    assert init_from_checkpoint(begun, tmp_path / "one") == (len(begun.state_dict()), [])
    assert fingerprint(begun) == fingerprint(model)


@pytest.mark.filterwarnings("error")
def test_a_shipped_model_in_eight_bits_is_loaded_verified_and_smaller(tmp_path: Path) -> None:
    folder = shutil.copytree(zoo()[SMALL], tmp_path / "model")
    before = (folder / WEIGHTS).stat().st_size
    model = load(str(folder), "cpu").generator
    assert model is not None
    save_checkpoint(folder, model, (folder / "recipe.yaml").read_text(), dtype="int8")
    assert (folder / WEIGHTS).stat().st_size < 0.8 * before
    again = load(str(folder), "cpu").generator
    assert again is not None
    found = verify(str(folder))
    assert found.sound
    assert next(file for file in found.files if file.path.endswith(WEIGHTS)).tensors == len(read_tensors(folder / WEIGHTS))
    load_weights(model, folder)
    assert fingerprint(again) == fingerprint(model)


NAME = "linear.weight"
WRONG: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "no scale": ({SCALE: None}, f"'{NAME}._data' without '{NAME}._scale'"),
    "no values": ({DATA: None}, f"'{NAME}._scale' without '{NAME}._data'"),
    "NaN": ({SCALE: torch.full((64, 1), float("nan")).bfloat16()}, f"'{NAME}._scale' holds values that are not finite"),
    "infinity": ({SCALE: torch.full((64, 1), float("inf"))}, f"'{NAME}._scale' holds values that are not finite"),
    "zero": ({SCALE: torch.zeros(64, 1)}, f"'{NAME}._scale' holds values that are not finite or not above 0"),
    "too few": ({SCALE: torch.ones(1, 1)}, f"'{NAME}._scale' is (1, 1) of torch.float32, but one scale per row"),
    "along the other axis": ({SCALE: torch.ones(1, 128)}, f"'{NAME}._scale' is (1, 128) of torch.float32, but one scale per row"),
    "no axes": ({SCALE: torch.ones(64)}, f"'{NAME}._scale' is (64,) of torch.float32, but one scale per row"),
    "scales of whole numbers": ({SCALE: torch.ones(64, 1).long()}, f"'{NAME}._scale' is (64, 1) of torch.int64, but one scale per row"),
    "another type": ({DATA: torch.ones(64, 128).byte()}, f"'{NAME}._data' is (64, 128) of torch.uint8"),
    "nothing": ({DATA: torch.ones(0, 128).char()}, f"'{NAME}._data' is (0, 128) of torch.int8"),
    "twice": ({"": torch.ones(64, 128)}, f"'{NAME}' twice"),
    "another shape": (
        {DATA: torch.ones(3, 4, dtype=torch.int8), SCALE: torch.ones(3, 1)},
        f"tensor '{NAME}' is (3, 4), but the model's is (64, 128)",
    ),
    "overflow": ({SCALE: torch.full((64, 1), 3e38)}, f"values of the tensor '{NAME}' are not finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_pair_is_named_with_its_file_and_changes_nothing(case: str, tmp_path: Path) -> None:
    changes, words = WRONG[case]
    model = Model()
    save_checkpoint(tmp_path, model, "", dtype="int8")
    tensors: dict[str, Tensor | None] = {**load_file(tmp_path / WEIGHTS), **{NAME + end: value for end, value in changes.items()}}
    save_file({name: value for name, value in tensors.items() if value is not None}, tmp_path / WEIGHTS)
    write_checksums(tmp_path, [WEIGHTS])
    other = Model(1)
    before = fingerprint(other)
    with pytest.raises(CheckpointError, match=re.escape(words)) as refused:
        load_weights(other, tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert fingerprint(other) == before
    if case != "another shape":  # of which the rest is taken
        with pytest.raises(CheckpointError, match=re.escape(words)):
            init_from_checkpoint(other, tmp_path)
