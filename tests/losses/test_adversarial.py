"""The adversarial game: closed forms."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jielong.losses.adversarial import Adversarial, PatchAdversarialLoss, discriminator_objective, generator_objective


def small(**settings: Any) -> PatchAdversarialLoss:
    torch.manual_seed(0)
    return PatchAdversarialLoss(Adversarial(**{"channels": 8, "layers": 1, "weight": 1.0} | settings))


def pictures(seed: int) -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_undecided_discriminator() -> None:
    zero = torch.zeros(4, 1, 3, 3)
    assert discriminator_objective(zero, zero, "hinge") == 1
    assert generator_objective(zero, "hinge") == 0
    assert discriminator_objective(zero, zero, "non_saturating").item() == pytest.approx(math.log(2))
    assert generator_objective(zero, "non_saturating").item() == pytest.approx(math.log(2))


def test_perfect_discriminator_has_no_loss_and_no_gradient() -> None:
    real, fake = torch.full((5,), 1.5, requires_grad=True), torch.full((5,), -1.5, requires_grad=True)
    loss = discriminator_objective(real, fake, "hinge")
    loss.backward()
    assert loss == 0
    assert real.grad is not None
    assert fake.grad is not None
    assert not real.grad.any()
    assert not fake.grad.any()


@pytest.mark.parametrize("kind", ["hinge", "non_saturating"])
def test_gradients_point_the_right_way(kind: Any) -> None:
    real, fake = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    down_real, down_fake = torch.autograd.grad(discriminator_objective(real, fake, kind), (real, fake))
    (down_generator,) = torch.autograd.grad(generator_objective(fake, kind), fake)
    assert down_real < 0 < down_fake  # the discriminator raises the real score and lowers the fake one
    assert down_generator < 0  # the decoder raises it


def test_each_side_trains_only_itself() -> None:
    loss, fake = small(), pictures(1).requires_grad_()
    loss.generator_loss(fake).backward()
    assert fake.grad is not None
    assert fake.grad.any()
    assert all(p.grad is None for p in loss.parameters())
    fake.grad = None
    loss.discriminator_loss(pictures(2), fake)["total"].backward()
    assert fake.grad is None
    assert all(p.grad is not None for p in loss.parameters())


def test_scores_are_the_mean_logits() -> None:
    loss, real, fake = small(kind="non_saturating"), pictures(1), pictures(2)
    result = loss.discriminator_loss(real, fake)
    logits_real, logits_fake = loss.discriminator(real), loss.discriminator(fake)
    torch.testing.assert_close(result["real"], logits_real.mean())
    torch.testing.assert_close(result["fake"], logits_fake.mean())
    expected = (nn.functional.softplus(-logits_real).mean() + nn.functional.softplus(logits_fake).mean()) / 2
    torch.testing.assert_close(result["total"], expected)


def last_layer() -> tuple[nn.Parameter, Tensor]:
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    return weight, weight * torch.tensor([1.0, 2.0, 3.0])


def test_adaptive_weight_is_the_ratio_of_norms() -> None:
    loss = small()
    weight, output = last_layer()
    one = loss.adaptive_weight(output.square().sum(), output.sum(), weight)
    pull = (2 * output.detach() * torch.tensor([1.0, 2.0, 3.0])).norm()
    assert one.item() == pytest.approx((pull / (14**0.5 + 1e-4)).item(), rel=1e-6)
    assert not one.requires_grad
    assert small(weight=0.5).adaptive_weight(output.square().sum(), output.sum(), weight).item() == pytest.approx(one.item() / 2)
    # Scaling the adversarial loss leaves the product with it unchanged.
    ten = loss.adaptive_weight(output.square().sum(), 10 * output.sum(), weight)
    assert (10 * ten).item() == pytest.approx(one.item(), rel=1e-4)


def test_adaptive_weight_is_capped() -> None:
    weight, output = last_layer()
    pull = (2 * output.detach() * torch.tensor([1.0, 2.0, 3.0])).norm()  # of the first loss; the second's is sqrt(14) times its scale
    for scale, limited in ((1e-9, True), (1e-3, False)):
        free = float(pull / (14**0.5 * scale + 1e-4))
        assert (free > 1e4) is limited
        found = small().adaptive_weight(output.square().sum(), output.sum() * scale, weight).item()
        assert found == pytest.approx(min(free, 1e4), rel=1e-5)
    assert small().adaptive_weight(output.sum() * 0, output.sum(), weight) == 0
    assert small(adaptive=False, weight=0.25).adaptive_weight(output.sum(), output.sum(), weight) == 0.25


def test_adaptive_weight_of_a_frozen_layer_is_refused() -> None:
    weight, output = last_layer()
    weight.requires_grad_(False)
    with pytest.raises(ValueError, match="freeze"):
        small().adaptive_weight(output.sum(), output.sum(), weight)


def test_warm_up_counts_samples() -> None:
    loss = small(start_samples=1000)
    assert not loss.active(999)
    assert loss.active(1000)


def test_the_discriminator_learns_to_tell() -> None:
    """On two sets that differ in texture, the hinge loss falls from near 1 to near 0."""
    loss = small()
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3, betas=(0.5, 0.9))
    generator = torch.Generator().manual_seed(0)
    history = []
    for _ in range(60):
        real = torch.randn(8, 3, 16, 16, generator=generator)
        fake = nn.functional.avg_pool2d(torch.randn(8, 3, 18, 18, generator=generator), 3, stride=1) * 3  # same variance, blurred
        result = loss.discriminator_loss(real, fake)
        optimizer.zero_grad()
        result["total"].backward()
        optimizer.step()
        history.append(result["total"].item())
    assert history[0] > 0.8
    assert sum(history[-10:]) / 10 < 0.2


def test_autocast_does_not_reach_the_losses() -> None:
    loss, real, fake = small(), pictures(1), pictures(2)
    plain = loss.generator_loss(fake)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss.generator_loss(fake), plain)
        assert loss.discriminator_loss(real, fake)["total"].dtype == torch.float32
