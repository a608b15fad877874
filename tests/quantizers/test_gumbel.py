"""The Gumbel-softmax quantizer against its limits and closed forms."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jielong.config.registry import parse_part
from jielong.core.rng import Draws
from jielong.quantizers.checks import NonFiniteVectors
from jielong.quantizers.gumbel import Gumbel, GumbelQuantizer, cosine


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bare(codes: int, **settings: object) -> GumbelQuantizer:
    """A quantizer whose vectors are its logits."""
    quantizer = Gumbel.model_validate({"codebook_size": codes, "temperature_samples": 0, "kl_samples": 0} | settings).build(codes)
    with torch.no_grad():
        quantizer.logits.weight.copy_(torch.eye(codes))
        quantizer.logits.bias.zero_()
        quantizer.codebook.copy_(torch.eye(codes))
    return quantizer


def test_cold_samples_are_the_argmax_of_noisy_logits_and_follow_the_softmax() -> None:
    """Chi-square over 5 codes: above 27 (4 degrees of freedom) once in 50,000 runs of another seed."""
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0])
    quantizer = bare(5, temperature=(1e-4, 1e-4))
    values = quantizer(logits.expand(20_000, 5), generator=seeded()).values.detach()
    chosen = values.argmax(-1)
    resolve = (values.max(-1).values > 0.999).float().mean()
    assert resolve > 0.99  # a gap of 1e-3 between two noisy logits happens less than once in a hundred
    uniform = Draws(Draws.fresh(20_000, logits.device, seeded()).each(1).keys[:, 0]).uniform(5)
    assert torch.equal(chosen, (logits.log_softmax(-1) - (-uniform.log()).log()).argmax(-1))
    want = 20_000 * logits.softmax(-1)
    counts = torch.bincount(chosen, minlength=5)
    assert float(((counts - want).square() / want).sum()) < 27


def test_certain_logits_at_zero_temperature_are_encode() -> None:
    quantizer, z = bare(6, temperature=(1e-4, 1e-4)), 200 * normal(300, 6)
    close = z.topk(2).values
    z = z[(close[:, 0] - close[:, 1]) > 40]  # the noise cannot bridge that: less than 6 e^-40 a vector
    found = quantizer(z, generator=seeded())
    assert len(z) > 100
    assert torch.equal(found.indices, quantizer.encode(z))
    assert torch.equal(found.indices[:, 0], z.argmax(-1))
    torch.testing.assert_close(found.values, quantizer.decode(found.indices))


def test_hot_samples_are_the_mean_of_all_codes() -> None:
    quantizer = Gumbel(codebook_size=9, temperature=(1e6, 1e6)).build(4)
    values = quantizer(normal(20, 4), generator=seeded()).values
    torch.testing.assert_close(values, quantizer.codebook.mean(0).expand(20, 4), rtol=1e-3, atol=1e-4)


def test_relaxed_samples_are_the_formula_and_carry_its_gradient() -> None:
    quantizer, z, w = (
        Gumbel(codebook_size=7, temperature=(0.7, 0.7)).build(4),
        normal(2, 11, 4).requires_grad_(),
        normal(2, 11, 4, seed=1),
    )
    found = quantizer(z, generator=seeded())
    uniform = Draws(Draws.fresh(2, z.device, seeded()).each(11).keys.flatten()).uniform(7)
    noise = -(-uniform.log()).log().view(2, 11, 7)
    y = ((quantizer.logits(z).log_softmax(-1) + noise) / 0.7).softmax(-1)
    torch.testing.assert_close(found.values, y @ quantizer.codebook)
    parameters = [z, quantizer.logits.weight, quantizer.codebook]
    mine = torch.autograd.grad((found.values * w).sum(), parameters)
    want = torch.autograd.grad((y @ quantizer.codebook * w).sum(), parameters)
    for a, b in zip(mine, want, strict=True):
        torch.testing.assert_close(a, b)


def test_hard_samples_are_codes_with_the_gradient_of_the_mixture() -> None:
    soft = Gumbel(codebook_size=7, temperature=(0.7, 0.7)).build(4)
    hard = copy.deepcopy(soft)
    hard.settings = soft.settings.model_copy(update={"hard": True})
    a, b, w = normal(30, 4).requires_grad_(), normal(30, 4).requires_grad_(), normal(30, 4, seed=1)
    found = hard(a, generator=seeded())
    distances = (found.values.detach()[:, None] - hard.codebook.detach()).abs().sum(-1)
    assert distances.min(-1).values.max() < 1e-6
    assert len(distances.argmin(-1).unique()) > 1
    (found.values * w).sum().backward()
    (soft(b, generator=seeded()).values * w).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_divergence_from_uniform() -> None:
    quantizer = bare(16, kl=1.0)
    assert float(quantizer(torch.zeros(5, 16)).statistics["kl"]) == pytest.approx(0, abs=1e-5)
    assert float(quantizer(1e4 * torch.eye(16)).statistics["kl"]) == pytest.approx(math.log(16), rel=1e-6)
    z = (2 * normal(40, 16)).requires_grad_()
    loss = quantizer(z).losses["kl"]
    uniform = torch.full((40, 16), -math.log(16))
    torch.testing.assert_close(loss, F.kl_div(uniform, z.log_softmax(-1), log_target=True, reduction="none").sum(-1).mean())
    loss.backward()
    q, log_q = z.detach().softmax(-1), z.detach().log_softmax(-1)
    torch.testing.assert_close(z.grad, q * (log_q - (q * log_q).sum(-1, keepdim=True)) / 40)


def test_annealing_counts_samples() -> None:
    assert cosine(1.0, 0.0625, 100, 0) == 1
    assert cosine(1.0, 0.0, 100, 50) == pytest.approx(0.5)
    assert cosine(1.0, 0.0, 100, 25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert cosine(1.0, 0.0625, 100, 100) == cosine(1.0, 0.0625, 100, 10**9) == cosine(1.0, 0.0625, 0, 0) == 0.0625
    quantizer = Gumbel(codebook_size=7, temperature_samples=1000, kl=2.0, kl_samples=500).build(4)
    at = {seen: quantizer(normal(9, 4), samples_seen=seen) for seen in (0, 250, 1000)}
    assert [float(found.statistics["temperature"]) for found in at.values()] == pytest.approx([1, cosine(1, 1 / 16, 1000, 250), 1 / 16])
    kl = float(at[0].statistics["kl"])
    assert [float(found.losses["kl"].detach()) for found in at.values()] == pytest.approx([0, kl, 2 * kl])


def test_outside_training_it_is_a_lookup_without_noise() -> None:
    quantizer, z = Gumbel(codebook_size=12).build(4), normal(3, 5, 4)
    state = copy.deepcopy(quantizer.state_dict())
    found = quantizer.eval()(z)
    assert torch.equal(found.indices, quantizer.encode(z))
    assert torch.equal(found.values, quantizer.decode(found.indices))
    assert found.indices.shape == (3, 5, 1)
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, state[name])


def test_noise_belongs_to_the_generator_and_else_to_the_update() -> None:
    one = Gumbel(codebook_size=12).build(4)
    other = copy.deepcopy(one)
    z = normal(8, 4)
    assert torch.equal(one(z, generator=seeded(3)).values, other(z, generator=seeded(3)).values)
    assert not torch.equal(one(z, generator=seeded(3), update=False).values, one(z, generator=seeded(4), update=False).values)
    first = one(z).values
    assert torch.equal(first, other(z).values)
    assert not torch.equal(first, one(z).values)
    assert int(one.updates) == 3
    assert int(one.usage.assignments) == 24


def test_advice_after_the_window() -> None:
    quantizer = bare(64)
    z = torch.zeros(70_000, 64)
    z[:, 5] = 9
    with torch.no_grad():
        assert quantizer(z[:100]).indices.eq(5).all()
    assert quantizer.advice() is None
    quantizer(z)
    assert "kl" in (quantizer.advice() or "")
    assert quantizer.figures()["codebook_usage"] == pytest.approx(1 / 64)


def test_refusals_say_what_would_be_right() -> None:
    quantizer = Gumbel(codebook_size=6).build(4)
    with pytest.raises(ValueError, match="channels last"):
        quantizer(normal(4, 3))
    with pytest.raises(NonFiniteVectors):
        quantizer(torch.full((2, 4), torch.nan))
    with pytest.raises(ValueError, match=r"\[0, 6\)"):
        quantizer.decode(torch.tensor([[6]]))
    with pytest.raises(RuntimeError, match="activation checkpointing"):
        checkpoint(lambda z: quantizer(z).values, normal(4, 4).requires_grad_(), use_reentrant=False).sum().backward()
    with pytest.raises(ValidationError, match="greater than 0"):
        Gumbel(temperature=(1.0, 0.0))


def test_settings_build_it_and_it_stays_float32() -> None:
    quantizer = parse_part("quantizer", {"gumbel": {"codebook_size": 32}}).build(5).to(torch.bfloat16)
    assert quantizer.codebook.dtype == quantizer.logits.weight.dtype == torch.float32
    found = quantizer(normal(2, 3, 5).bfloat16())
    assert found.values.dtype == torch.bfloat16
