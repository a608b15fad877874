"""Finite scalar quantization against its formula, the worked example, and ``vector_quantize_pytorch.FSQ``."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from jielong.config.registry import parse_part
from jielong.quantizers.checks import NonFiniteVectors
from jielong.quantizers.finite_scalar import FiniteScalar

public = pytest.importorskip("vector_quantize_pytorch")

LEVELS = pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 5, 4), (7,), (16, 3)])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def published_bound(z: Tensor, levels: tuple[int, ...]) -> Tensor:
    size = torch.tensor(levels)
    half = (size - 1) * (1 - 1e-3) / 2
    offset = torch.where(size % 2 == 0, 0.5, 0.0)
    return torch.tanh(z + torch.tan(offset / half)) * half - offset


class PublishedFSQ(public.FSQ):
    """The public module with the bound of the paper's notebook: tan and 1 - eps, where it has atanh and 1 + eps."""

    def bound(self, z: Tensor, eps: float = 1e-3, hard_clamp: bool = False) -> Tensor:
        levels = tuple(self._levels.tolist())
        bounded = published_bound(z, levels)
        return (bounded + (bounded.round() - bounded).detach()) / (self._levels // 2)


@LEVELS
@pytest.mark.parametrize("count", [0, 1, 7, 192])
def test_values_indices_and_gradient_are_the_formula(levels: tuple[int, ...], count: int) -> None:
    quantizer, z, w = (
        FiniteScalar(levels=levels).build(len(levels)),
        normal(count, len(levels)) * 2,
        normal(count, len(levels), seed=1),
    )
    z.requires_grad_()
    found = quantizer(z)
    half_width = torch.tensor(levels) // 2
    digits = published_bound(z.detach(), levels).round()
    assert torch.equal(found.values, digits / half_width)
    basis = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
    assert torch.equal(found.indices[:, 0], ((digits + half_width).long() * basis).sum(-1))
    assert found.losses == {}
    (found.values * w).sum().backward()
    (want,) = torch.autograd.grad((published_bound(z, levels) / half_width * w).sum(), z)
    torch.testing.assert_close(z.grad, want, rtol=1e-5, atol=1e-6)


def test_worked_example() -> None:
    quantizer = FiniteScalar(levels=(3, 5, 4)).build(3)
    z = torch.tensor([0.25, 0.6, -7.0])
    assert quantizer.encode(z).tolist() == [10]
    assert quantizer.decode(torch.tensor([10])).tolist() == [0.0, 0.5, -1.0]


@LEVELS
def test_every_index_has_its_own_code_and_is_found_again(levels: tuple[int, ...]) -> None:
    quantizer = FiniteScalar(levels=levels).build(len(levels))
    indices = torch.arange(quantizer.codebook_size)[:, None]
    codes = quantizer.decode(indices)
    assert quantizer.codebook_size == math.prod(levels) == len(codes.unique(dim=0))
    for channel, level in zip(codes.unbind(-1), levels, strict=True):
        assert float(channel.min()) == -1
        assert float(channel.max()) == pytest.approx(1 if level % 2 else 1 - 2 / level)
    half = torch.tensor([(level - 1) * 0.999 / 2 for level in levels], dtype=torch.double)
    offset = torch.tensor([0.5 * (level % 2 == 0) for level in levels], dtype=torch.double)
    # The middle of a code's cell, where the bounded vector is the whole number itself; the outermost ones lie just beyond the reach.
    inside = ((codes * (torch.tensor(levels) // 2) + offset) / half).clamp(-0.9999, 0.9999)
    z = (torch.atanh(inside) - torch.tan(offset / half)).float()
    found = quantizer(z)
    assert torch.equal(found.indices, indices)
    assert torch.equal(found.values, codes)


@LEVELS
def test_equals_the_public_module_with_the_published_bound(levels: tuple[int, ...]) -> None:
    ours, theirs = FiniteScalar(levels=levels).build(len(levels)), PublishedFSQ(list(levels))
    a, b, w = normal(3, 65, len(levels)).requires_grad_(), normal(3, 65, len(levels)).requires_grad_(), normal(3, 65, len(levels), seed=2)
    mine = ours(a)
    values, indices = theirs(b)
    assert torch.equal(mine.indices[..., 0], indices.long())
    torch.testing.assert_close(mine.values, values)
    (mine.values * w).sum().backward()
    (values * w).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)
    everything = torch.arange(ours.codebook_size)
    torch.testing.assert_close(ours.decode(everything[:, None]), theirs.indices_to_codes(everything))


@LEVELS
def test_equals_the_public_module_as_it_is_away_from_the_edges_of_cells(levels: tuple[int, ...]) -> None:
    """Its bound is up to 0.2 % wider, so that it differs from the published one where a vector is about to change its code."""
    ours, theirs, z = FiniteScalar(levels=levels).build(len(levels)), public.FSQ(list(levels)), normal(2, 2000, len(levels))
    bounded = published_bound(z, levels)
    clear = ((bounded - bounded.floor() - 0.5).abs() > 0.02).all(-1)
    assert clear.float().mean() > 0.8
    values, indices = theirs(z)
    mine = ours(z)
    assert torch.equal(mine.indices[..., 0][clear], indices.long()[clear])
    torch.testing.assert_close(mine.values[clear], values[clear])


def test_projections_are_the_public_ones() -> None:
    ours, theirs = FiniteScalar(levels=(5, 5, 4)).build(7), PublishedFSQ([5, 5, 4], dim=7)
    ours.inward.load_state_dict(theirs.project_in.state_dict())
    ours.outward.load_state_dict(theirs.project_out.state_dict())
    z = normal(2, 9, 7)
    values, indices = theirs(z)
    mine = ours(z)
    assert torch.equal(mine.indices[..., 0], indices.long())
    torch.testing.assert_close(mine.values, values)
    torch.testing.assert_close(ours.decode(mine.indices), mine.values)


def test_counts_codes_in_training_only() -> None:
    quantizer, z = FiniteScalar(levels=(3, 3)).build(2), normal(50, 2)
    for quiet in ("eval", "no_grad", "update"):
        quantizer.train(quiet != "eval")
        with torch.set_grad_enabled(quiet != "no_grad"):
            quantizer(z, update=quiet != "update")
        assert int(quantizer.usages[0].assignments) == 0
    found = quantizer.train()(z).indices
    assert int(quantizer.usages[0].assignments) == 50
    assert quantizer.figures()["codebook_usage"] == pytest.approx(len(found.unique()) / 9)


def test_advice_waits_for_the_window_and_names_the_tanh() -> None:
    quantizer = FiniteScalar(levels=(8, 8)).build(2)
    quantizer(torch.full((100, 2), 9.0))
    assert quantizer.advice() is None
    quantizer(torch.full((70_000, 2), 9.0))
    assert "tanh" in (quantizer.advice() or "")
    # Wide enough vectors reach all codes.
    healthy = FiniteScalar(levels=(3, 3)).build(2)
    healthy(normal(70_000, 2) * 2)
    assert healthy.advice() is None


def test_half_precision_around_it_changes_nothing_inside() -> None:
    quantizer, z = FiniteScalar(levels=(8, 5, 5)).build(5), normal(2, 40, 5)
    wanted = quantizer.encode(z)
    half = copy.deepcopy(quantizer).to(torch.bfloat16)
    assert half.inward.weight.dtype == half.unit.dtype == torch.float32
    assert torch.equal(half.encode(z), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer(z).indices, wanted)
    values = quantizer(z.bfloat16()).values
    assert values.dtype == torch.bfloat16


def test_refusals_say_what_would_be_right() -> None:
    quantizer = FiniteScalar(levels=(5, 5)).build(2)
    with pytest.raises(ValueError, match="channels last"):
        quantizer(normal(4, 3))
    with pytest.raises(NonFiniteVectors):
        quantizer(torch.tensor([[1.0, torch.nan]]))
    with pytest.raises(NonFiniteVectors):
        quantizer.encode(torch.tensor([[1.0, torch.inf]]))
    with pytest.raises(ValueError, match=r"\[0, 25\)"):
        quantizer.decode(torch.tensor([[25]]))
    with pytest.raises(ValueError, match="one per codebook"):
        quantizer.decode(torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match="project: true or dim: 2"):
        FiniteScalar(levels=(5, 5), project=False).build(3)
    with pytest.raises(ValidationError, match="lookup_free"):
        FiniteScalar(levels=(2, 5))
    with pytest.raises(ValueError, match="1,048,576"):
        FiniteScalar(levels=(128, 128, 128)).build(3)


def test_settings_build_it() -> None:
    quantizer = parse_part("quantizer", {"finite_scalar": {"levels": [8, 5, 5, 5]}}).build(4)
    assert (quantizer.codebook_size, quantizer.num_codebooks, quantizer.dim) == (1000, 1, 4)
    assert not list(quantizer.parameters())
