"""Projected lookup: the quantizer inside on the projected vectors, and levels that each project."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from jielong.config.registry import parse_part
from jielong.quantizers.base import QuantizerSettings
from jielong.quantizers.checks import NonFiniteVectors
from jielong.quantizers.finite_scalar import FiniteScalar
from jielong.quantizers.multi_scale import MultiScale
from jielong.quantizers.projected import Projected, ProjectedQuantizer
from jielong.quantizers.residual import Residual, ResidualQuantizer
from jielong.quantizers.vector import Vector

PLAIN = Vector(codebook_size=16, kmeans_iterations=0, restart_below=0.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def levels(**settings: object) -> ResidualQuantizer:
    torch.manual_seed(0)
    return Residual.model_validate({"num_codebooks": 3, "quantizer": Projected(width=3, quantizer=PLAIN)} | settings).build(8)


@pytest.mark.parametrize(
    "inner", [PLAIN, FiniteScalar(levels=(5, 3, 3)), Residual(num_codebooks=2, quantizer=PLAIN)], ids=lambda part: part.name
)
def test_it_is_the_quantizer_inside_between_two_linear_maps(inner: QuantizerSettings) -> None:
    torch.manual_seed(0)
    quantizer, z = Projected(width=3, quantizer=inner).build(8).eval(), normal(2, 30, 8)
    within, narrow = quantizer.quantizer, quantizer.inward(z)
    found = quantizer(z)
    assert torch.equal(found.indices, within.encode(narrow))
    assert torch.equal(found.indices, quantizer.encode(z))
    torch.testing.assert_close(found.values, quantizer.outward(within(narrow).values))
    torch.testing.assert_close(quantizer.decode(found.indices), found.values)
    assert quantizer.layout((30,)) == within.layout((30,))
    if inner.name == "residual":
        assert found.first is not None
        torch.testing.assert_close(found.first, quantizer.decode(found.indices[..., :1]))
    with pytest.raises(NonFiniteVectors):
        quantizer(torch.full((1, 8), float("nan")))
    with pytest.raises(ValueError, match="channels last"):
        quantizer(normal(2, 7))


def test_every_level_projects_what_is_left() -> None:
    quantizer, z = levels().eval(), normal(2, 30, 8)
    found, rest, parts = quantizer(z), z, []
    for level, stage in enumerate(quantizer.stages):
        assert isinstance(stage, ProjectedQuantizer)
        index = torch.cdist(stage.inward(rest), stage.quantizer.current).argmin(-1)  # type: ignore[operator]
        assert torch.equal(found.indices[..., level], index)
        parts.append(stage.outward(stage.quantizer.decode(index[..., None])))
        rest = rest - parts[-1]
    torch.testing.assert_close(found.values, sum(parts))
    torch.testing.assert_close(found.first, parts[0])
    torch.testing.assert_close(found.statistics["error"], rest.square().mean())
    torch.testing.assert_close(quantizer.decode(found.indices[..., :2]), parts[0] + parts[1])


def test_maps_of_levels_in_use_learn_and_those_left_out_do_not() -> None:
    quantizer, z = levels(dropout=1.0), normal(40, 8)
    found = quantizer(z, generator=torch.Generator().manual_seed(3))
    used = found.indices.shape[-1]
    assert used < 3
    (found.values - z).square().mean().backward()
    for level, stage in enumerate(quantizer.stages):
        grads = [weight.grad for weight in (*stage.outward.parameters(), *stage.inward.parameters())]  # type: ignore[union-attr]
        # The last level's way in has the losses of its codes alone, which are left out here, and its estimator.
        assert all((grad is not None and bool(grad.any())) == (level < used) for grad in grads)


def test_training_leaves_less_and_less() -> None:
    quantizer, z = (
        levels(quantizer=Projected(width=3, quantizer=Vector(codebook_size=16, codebook="gradient", metric="cosine"))),
        normal(256, 8),
    )
    optimizer = torch.optim.Adam(quantizer.parameters(), 1e-2)
    errors = []
    for _ in range(60):
        found = quantizer(z)
        loss = (found.values - z).square().mean()
        optimizer.zero_grad()
        (loss + sum(found.losses.values())).backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.6 * errors[0]
    left = quantizer.residuals(z)
    assert left[0] > left[1] > left[2]


def test_settings_come_back_and_refusals_say_what_would_be_right() -> None:
    settings = Residual(
        num_codebooks=2, quantizer=Projected(width=4, quantizer=Vector(codebook_size=8, metric="cosine", estimator="rotation"))
    )
    assert parse_part("quantizer", settings.model_dump(mode="json")) == settings
    for wrong, why in (
        (lambda: Residual(quantizer=Projected(), estimator="rotation"), "set estimator inside their quantizer"),
        (lambda: Residual(quantizer=Projected(), shared=True), "projected has none; leave shared out"),
        (lambda: Residual(quantizer=Projected(quantizer=Residual())), "they are not residual with"),
        (lambda: Projected(quantizer=MultiScale()), "without projected around it"),
    ):
        with pytest.raises(ValidationError, match=why):
            wrong()
