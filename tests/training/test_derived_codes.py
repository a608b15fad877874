"""Codes that a file leaves out are those that were left out, to the bit; a wrong pair of averages is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jielong.quantizers.residual import Residual
from jielong.quantizers.vector import Vector
from jielong.training.checkpoint import WEIGHTS, CheckpointError, fingerprint, load_weights, read_tensors, save_checkpoint
from jielong.training.derived_codes import with_codes, without_codes

SETTINGS = Residual(quantizer=Vector(codebook_size=64, codebook="ema", decay=0.9, kmeans_iterations=0), num_codebooks=3)


def batch(seed: int) -> torch.Tensor:
    return torch.randn(256, 8, generator=torch.Generator().manual_seed(seed))


def trained(settings: Residual | Vector, steps: int = 5) -> torch.nn.Module:
    torch.manual_seed(0)
    quantizer = settings.build(8).train()
    for step in range(steps):
        quantizer(batch(step))
    return quantizer


def test_codes_are_left_out_and_come_back_to_the_bit(tmp_path: Path) -> None:
    model = trained(SETTINGS)
    with torch.no_grad():
        whole = sum(value.nbytes for value in model.state_dict().values())
    save_checkpoint(tmp_path, model, "", "bf16")
    names, read = set(load_file(tmp_path / WEIGHTS)), SETTINGS.build(8)
    assert not any(name.endswith(".codebook") for name in names)
    assert {f"stages.{stage}.codebook_divisor" for stage in range(3)} <= names
    assert (tmp_path / WEIGHTS).stat().st_size < whole - 3 * 64 * 8 * 4 + 3 * 64 * 4 + 4_000
    load_weights(read, tmp_path)
    assert fingerprint(read) == fingerprint(model)


def test_training_goes_on_as_without_the_file(tmp_path: Path) -> None:
    model = trained(SETTINGS)
    save_checkpoint(tmp_path, model, "", "bf16")
    read = SETTINGS.build(8).train()
    load_weights(read, tmp_path)
    for each in (model, read):
        each(batch(99))
    assert fingerprint(read) == fingerprint(model)


def test_codes_that_are_no_quotient_are_stored() -> None:
    """Restarted since the last update, of length one, or moved by gradients."""
    restarted = trained(Vector(codebook_size=64, codebook="ema", kmeans_iterations=0))
    restarted.codebook[3] += 1  # type: ignore[operator, index]
    normalised = trained(Vector(codebook_size=64, codebook="ema", normalize=True, kmeans_iterations=0))
    learned = trained(Vector(codebook_size=64, codebook="gradient", kmeans_iterations=0))
    for model in (restarted, normalised, learned):
        assert without_codes(model, model.state_dict()).keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sums": None}, "'codebook_divisor' without 'sums'"),
        ({"codebook": torch.ones(64, 8)}, "'codebook' twice"),
        ({"codebook_divisor": torch.ones(63)}, r"is \(63,\) of torch.float32 and the sums \(64, 8\)"),
        ({"codebook_divisor": torch.ones(64).double()}, "in torch.float32"),
        ({"codebook_divisor": torch.zeros(64)}, "not finite or not above 0"),
        ({"codebook_divisor": torch.full((64,), float("nan"))}, "not finite or not above 0"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, torch.Tensor | None], words: str, tmp_path: Path) -> None:
    model = trained(Vector(codebook_size=64, codebook="ema", kmeans_iterations=0))
    stored = without_codes(model, model.state_dict()) | change
    tensors = {name: value for name, value in stored.items() if value is not None}
    with pytest.raises(ValueError, match=words):
        with_codes(tensors)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=words):
        read_tensors(tmp_path / WEIGHTS)
