"""Signs as codes: lookup-free and binary spherical quantization against enumeration of all codes and ``vector_quantize_pytorch.LFQ``."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from jielong.config.registry import parse_part
from jielong.quantizers.binary import BinarySettings, bit_entropy, codebook_entropy
from jielong.quantizers.binary_spherical import BinarySpherical
from jielong.quantizers.checks import NonFiniteVectors
from jielong.quantizers.lookup_free import LookupFree

public = pytest.importorskip("vector_quantize_pytorch")

KINDS = pytest.mark.parametrize("kind", [LookupFree, BinarySpherical])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def all_codes(bits: int) -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * bits).view(-1, bits)


def by_enumeration(z: Tensor, codes: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean entropy of a token and entropy of the mean, from a softmax over all codes of the negative square distances."""
    p = (-torch.cdist(z.double(), codes.double()).square() / temperature).softmax(-1)
    mean = p.mean(0)
    return -(p * p.clamp_min(1e-300).log()).sum(-1).mean(), -(mean * mean.clamp_min(1e-300).log()).sum()


# --- indices and codes ------------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("groups", [1, 2, 5])
def test_every_index_is_found_again(kind: type[BinarySettings], order: str, groups: int) -> None:
    quantizer = kind.model_validate({"bits": 10, "bit_order": order, "groups": groups}).build(10)
    each = torch.arange(quantizer.codebook_size)
    indices = torch.cartesian_prod(*[each] * groups).view(-1, groups)
    codes = quantizer.decode(indices)
    assert len(indices) == len(codes.unique(dim=0)) == 1024
    assert torch.equal(quantizer.encode(codes), indices)
    found = quantizer.eval()(codes * 0.7)
    assert torch.equal(found.indices, indices)
    assert torch.equal(found.values, codes)


@KINDS
def test_bit_orders(kind: type[BinarySettings]) -> None:
    z = torch.tensor([0.3, -0.1, -2.0, -0.5, 0.2, 1.0])
    assert kind(bits=6, bit_order="little").build(6).encode(z).tolist() == [1 + 16 + 32]
    assert kind(bits=6, bit_order="big").build(6).encode(z).tolist() == [32 + 2 + 1]
    assert kind(bits=6, bit_order="little", groups=2).build(6).encode(z).tolist() == [1, 2 + 4]
    assert kind(bits=6, bit_order="big", groups=2).build(6).encode(z).tolist() == [4, 2 + 1]


def test_published_bit_orders_are_the_defaults() -> None:
    z = torch.tensor([1.0] + [-1.0] * 17)
    assert LookupFree(bits=18).build(18).encode(z).item() == 1
    assert BinarySpherical().build(18).encode(z).item() == 2**17


@KINDS
def test_zero_is_negative(kind: type[BinarySettings]) -> None:
    quantizer = kind(bits=4).build(4)
    found = quantizer(torch.zeros(3, 4))
    assert not found.indices.any()
    assert torch.equal(found.values, torch.full((3, 4), -quantizer.magnitude))


def test_spherical_codes_are_the_nearest_unit_vectors_and_their_error_is_known() -> None:
    quantizer, z = BinarySpherical(bits=8, entropy=0.0).build(8), normal(500, 8)
    codes = all_codes(8) / math.sqrt(8)
    u = F.normalize(z, dim=-1)
    found = quantizer(z)
    torch.testing.assert_close(found.values, codes[(u @ codes.t()).argmax(-1)])
    torch.testing.assert_close(found.values.norm(dim=-1), torch.ones(500))
    errors = 2 - 2 * u.abs().sum(-1) / math.sqrt(8)
    torch.testing.assert_close(found.statistics["error"], errors.mean() / 8)
    assert errors.max() < 2 - 2 / math.sqrt(8)


# --- gradients --------------------------------------------------------------------------------------------------------------------


def test_lookup_free_hands_the_gradient_through() -> None:
    quantizer, z, w = LookupFree(bits=5).build(5), normal(7, 5).requires_grad_(), normal(7, 5, seed=1)
    (quantizer(z).values * w).sum().backward()
    assert torch.equal(z.grad, w)


@pytest.mark.parametrize(("gradient", "scale"), [("sphere", 1.0), ("sign", 5**-0.5)])
def test_spherical_gradient_passes_the_sphere_and_one_convention_is_smaller(gradient: str, scale: float) -> None:
    quantizer = BinarySpherical(bits=5, gradient=gradient).build(5)  # type: ignore[arg-type]
    z, w = normal(7, 5).requires_grad_(), normal(7, 5, seed=1)
    (quantizer(z).values * w).sum().backward()
    u, length = F.normalize(z.detach(), dim=-1), z.detach().norm(dim=-1, keepdim=True)
    torch.testing.assert_close(z.grad, scale * (w - u * (u * w).sum(-1, keepdim=True)) / length)


def test_commitment_gradient() -> None:
    quantizer, z = LookupFree(bits=5, entropy=0.0, commitment=0.25).build(5), normal(7, 5).requires_grad_()
    quantizer(z).losses["commitment"].backward()
    torch.testing.assert_close(z.grad, 2 * 0.25 * (z.detach() - z.detach().sign()) / z.numel())


def test_entropy_gradients_in_double_precision() -> None:
    logits = (normal(6, 5) * 2).double().requires_grad_()
    assert torch.autograd.gradcheck(bit_entropy, logits)
    assert torch.autograd.gradcheck(lambda x: codebook_entropy(x, 5), logits)
    assert torch.autograd.gradcheck(lambda x: codebook_entropy(x, 2), logits)
    # d H(sigmoid(x)) / dx = -x p (1 - p)
    (gradient,) = torch.autograd.grad(bit_entropy(logits), logits)
    p = logits.detach().sigmoid()
    torch.testing.assert_close(gradient, -logits.detach() * p * (1 - p) / 6)


# --- entropies --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@KINDS
def test_entropies_equal_those_over_all_codes(kind: type[BinarySettings], temperature: float) -> None:
    quantizer, z = kind(bits=7, temperature=temperature, joint_bits=7).build(7), normal(60, 7)
    token, book = by_enumeration(quantizer._place(z), all_codes(7) * quantizer.magnitude, temperature)
    found = quantizer(z)
    torch.testing.assert_close(found.statistics["token_entropy"].double(), token, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.statistics["codebook_entropy"].double(), book, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.losses["entropy"].double(), 0.1 * (token - book), rtol=1e-5, atol=1e-5)


def test_shorter_runs_are_an_upper_bound_and_exact_for_independent_bits() -> None:
    dependent = normal(200, 8)
    dependent[:, 4:] = dependent[:, :4]
    logits = 20 * dependent
    exact = codebook_entropy(logits, 8)
    bounds = [codebook_entropy(logits, run) for run in (8, 4, 3, 1)]
    assert all(bound >= exact - 1e-5 for bound in bounds)
    assert bounds[-1] > exact + 1  # four of the eight bits are copies: 4 ln 2 too much
    everything = 50 * all_codes(8)  # every code once: the bits are independent
    for run in (8, 5, 4, 1):
        torch.testing.assert_close(codebook_entropy(everything, run), torch.tensor(8 * math.log(2)))
    torch.testing.assert_close(bit_entropy(everything), torch.tensor(0.0))


def test_undecided_tokens_have_all_the_entropy() -> None:
    torch.testing.assert_close(bit_entropy(torch.zeros(9, 6)), torch.tensor(6 * math.log(2)))
    torch.testing.assert_close(codebook_entropy(torch.zeros(9, 6), 6), torch.tensor(6 * math.log(2)))


def test_tails_keep_their_digits() -> None:
    x = torch.tensor([20.0, -30.0, 60.0], dtype=torch.double)[:, None]
    want = x.abs() * (-x.abs()).exp() + (-x.abs()).exp()  # to first order in exp(-|x|)
    torch.testing.assert_close(torch.stack([bit_entropy(each[None].float()) for each in x]).double(), want[:, 0], rtol=1e-5, atol=0)


def test_eighteen_bits_at_once_know_which_codes_were_chosen() -> None:
    chosen = torch.randperm(1 << 18, generator=torch.Generator().manual_seed(0))[:64]
    quantizer = LookupFree(bits=18, joint_bits=18, temperature=0.05).build(18)
    z = quantizer.decode(chosen[:, None]).requires_grad_()
    found = quantizer(z)
    assert torch.equal(found.indices[:, 0], chosen)
    assert float(found.statistics["codebook_entropy"]) == pytest.approx(math.log(64), rel=1e-4)
    found.losses["entropy"].backward()
    assert torch.isfinite(z.grad).all()


def test_entropy_weight_falls_in_samples_seen() -> None:
    quantizer, z = LookupFree(bits=4, entropy_start=3.0, entropy_samples=1000).build(4), normal(20, 4)
    at = {seen: float(quantizer(z, samples_seen=seen).losses["entropy"]) for seen in (0, 500, 1000, 5000)}
    assert at[0] == pytest.approx(3 * at[1000])
    assert at[500] == pytest.approx(2 * at[1000])
    assert at[5000] == at[1000]


# --- public implementation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spherical", [False, True])
def test_equals_the_public_module(spherical: bool) -> None:
    theirs = public.LFQ(
        dim=6, codebook_size=64, entropy_loss_weight=0.2, diversity_gamma=1.5, commitment_loss_weight=0.25, spherical=spherical
    )
    kind = BinarySpherical if spherical else LookupFree
    ours = kind(bits=6, bit_order="big", entropy=0.2, diversity=1.5, commitment=0.25, joint_bits=6, temperature=1 / 2.0).build(6)
    # Their logarithm stops at 1e-5; vectors this short leave no code less probable than that.
    a, b, w = (normal(3, 20, 6) * 0.1).requires_grad_(), (normal(3, 20, 6) * 0.1).requires_grad_(), normal(3, 20, 6, seed=1)
    mine = ours(a)
    values, indices, loss = theirs(b, inv_temperature=2.0)
    assert torch.equal(mine.indices[..., 0], indices.long())
    torch.testing.assert_close(mine.values, values)
    torch.testing.assert_close(sum(mine.losses.values()), loss, rtol=1e-5, atol=1e-6)
    ((mine.values * w).sum() + 100 * sum(mine.losses.values())).backward()
    ((values * w).sum() + 100 * loss).backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    everything = torch.arange(64)
    torch.testing.assert_close(ours.decode(everything[:, None]), theirs.indices_to_codes(everything))


def test_projections_are_the_public_ones() -> None:
    theirs = public.LFQ(dim=9, codebook_size=16).eval()
    ours = LookupFree(bits=4, bit_order="big").build(9).eval()
    ours.inward.load_state_dict(theirs.project_in.state_dict())
    ours.outward.load_state_dict(theirs.project_out.state_dict())
    z = normal(2, 11, 9)
    values, indices, _ = theirs(z)
    assert torch.equal(ours.encode(z)[..., 0], indices.long())
    torch.testing.assert_close(ours(z).values, values)


# --- settings, figures, refusals --------------------------------------------------------------------------------------------------


def test_figures_of_groups_and_advice() -> None:
    quantizer = LookupFree(bits=8, groups=2).build(8)
    z = normal(70_000, 8)
    z[:, 4:] = 1
    quantizer(z)
    figures = quantizer.figures()
    assert figures["codebook_usage_1"] == 1
    assert figures["codebook_usage_2"] == pytest.approx(1 / 16)
    assert figures["codebook_usage"] == pytest.approx(17 / 32)
    assert "diversity" in (quantizer.advice() or "")


def test_refusals_say_what_would_be_right() -> None:
    with pytest.raises(ValidationError, match="groups: 2"):
        BinarySpherical(bits=36)
    with pytest.raises(ValidationError, match="do not divide"):
        LookupFree(bits=9, groups=2)
    with pytest.raises(ValueError, match="dim: 12"):
        LookupFree(project=False).build(16)
    with pytest.raises(NonFiniteVectors):
        LookupFree(bits=4).build(4)(torch.full((2, 4), torch.nan))
    with pytest.raises(ValueError, match="channels last"):
        LookupFree(bits=4).build(4)(normal(4, 5))


def test_settings_build_them() -> None:
    quantizer = parse_part("quantizer", {"binary_spherical": {"bits": 36, "groups": 2}}).build(36)
    assert (quantizer.codebook_size, quantizer.num_codebooks) == (2**18, 2)
    assert quantizer(normal(3, 4, 36)).indices.shape == (3, 4, 2)
    assert parse_part("quantizer", "lookup_free").build(12).codebook_size == 4096
