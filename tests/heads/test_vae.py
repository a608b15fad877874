"""The VAE head against closed forms: KL divergence, the bound of a linear model with normal data, importance weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.vae import VAE, Posterior, VAEHead, log_normal
from jielong.networks.conditioning import Conditioning

LAYOUT = Layout((2, 2), channels=3)
LINEAR: dict[str, Any] = {"generator": {"mlp": {"layers": 0, "condition": 8}}, "encoder": {"mlp": {"layers": 0}}, "noise": 3}
SMALL = {"residual": {"channels": [16, 8], "blocks": 1, "group": 8}}
HIDDEN = torch.zeros(1, 4, 5, dtype=torch.float64)


def built(**settings: Any) -> VAEHead:
    torch.manual_seed(0)
    return VAE.model_validate(LINEAR | settings).build(5, LAYOUT).double()


class Linear:
    """``x = W z + b + s e``: its marginal ``N(b, W W' + s^2)`` and its posterior ``N(M^-1 W' (x - b) / s^2, M^-1)``, M = I + W' W / s^2."""

    def __init__(self, scale: float = 0.6) -> None:
        generator = torch.Generator().manual_seed(3)
        # Orthogonal columns: the posterior's covariance is diagonal, as the encoder's is.
        axes = torch.linalg.qr(torch.randn(12, 3, generator=generator, dtype=torch.float64)).Q
        self.weight = axes * torch.tensor([1.5, 0.8, 0.3], dtype=torch.float64)
        self.bias, self.scale = torch.randn(12, generator=generator, dtype=torch.float64), scale
        self.marginal = MultivariateNormal(self.bias, self.weight @ self.weight.T + scale**2 * torch.eye(12, dtype=torch.float64))
        self.covariance = torch.linalg.inv(torch.eye(3, dtype=torch.float64) + self.weight.T @ self.weight / scale**2)

    def head(self, **settings: Any) -> VAEHead:
        """A head with this model and its exact posterior."""
        head = built(scale=self.scale, **settings)
        gain = self.covariance @ self.weight.T / self.scale**2
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.zero_()
            head.generator.get_submodule("output").weight[:, :3] = self.weight  # type: ignore[index]
            head.generator.get_submodule("output").bias.copy_(self.bias)  # type: ignore[operator]
            head.posterior.weight[:3], head.posterior.bias[:3] = gain, -gain @ self.bias
            head.posterior.bias[3:] = self.covariance.diagonal().log()
        return head

    def items(self, count: int) -> Tensor:
        """Draws of the marginal as tokens."""
        torch.manual_seed(7)
        return self.marginal.sample((count,)).view(count, 4, 3)


def loss(head: VAEHead, items: Tensor, first: int = 0, **more: Any) -> Tensor:
    context = HeadContext(coords=LAYOUT.coordinates(), draws=Draws(torch.arange(first, first + len(items))), **more)
    return head.loss(HIDDEN.expand(len(items), -1, -1), items, context)


def test_the_divergence_is_that_of_torch_and_of_the_closed_form() -> None:
    mean, log_variance = torch.randn(50, 4, dtype=torch.float64), torch.randn(50, 4, dtype=torch.float64)
    found = Posterior(mean, log_variance).kl()
    torch.testing.assert_close(found, kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(()).double(), 1.0)))
    one = Posterior(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, math.log(4)])).kl()
    torch.testing.assert_close(one, torch.tensor([0.0, 0.5, (4 - 1 - math.log(4)) / 2]))
    x = torch.randn(50, 4, dtype=torch.float64)
    torch.testing.assert_close(log_normal(x, mean, log_variance), Normal(mean, (log_variance / 2).exp()).log_prob(x))


def test_draws_of_the_posterior_have_its_mean_and_deviation() -> None:
    posterior = Posterior(torch.full((1, 2), 0.7), torch.tensor([[0.0, math.log(0.25)]]))
    drawn = posterior.sample(torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.7, 0.7]), rtol=0, atol=0.015)
    torch.testing.assert_close(drawn.std(0), torch.tensor([1.0, 0.5]), rtol=0, atol=0.01)


@pytest.mark.parametrize("samples", [1, 2])
def test_with_the_exact_posterior_the_bound_is_the_likelihood(samples: int) -> None:
    """The importance weights are then constant, so one is exact for every draw; the ELBO is it in expectation over the posterior."""
    model = Linear()
    items, head = model.items(6), model.head(importance_draws=samples).eval()
    exact = -model.marginal.log_prob(items.flatten(1)) / 12
    if samples == 2:
        torch.testing.assert_close(loss(head, items), exact)
        return
    draws = torch.stack([loss(head, items, first=100 * step) for step in range(400)])
    error = draws.std(0) / 20
    assert bool(((draws.mean(0) - exact).abs() < 5 * error).all())
    assert head.nats_a_value(0.3) == 0.3
    assert head.bound == "evidence lower bound"


def test_more_importance_draws_tighten_the_bound_of_a_poor_posterior() -> None:
    model = Linear()
    items, bounds = model.items(300), []
    for samples in (1, 4, 64):
        head = model.head(importance_draws=samples).eval()
        nn.init.zeros_(head.posterior.weight)  # a posterior that ignores the item, wider than the prior
        nn.init.constant_(head.posterior.bias[3:], 0.3)
        nn.init.zeros_(head.posterior.bias[:3])
        bounds.append(float(loss(head, items).mean().detach()))
    exact = -float(model.marginal.log_prob(items.flatten(1)).mean()) / 12
    assert bounds[0] > bounds[1] > bounds[2] > exact - 0.02
    assert bounds[2] - exact < (bounds[0] - exact) / 4


def test_training_a_linear_model_reaches_the_likelihood_of_probabilistic_pca() -> None:
    """The optimum of the ELBO of a linear model with a fixed noise is the maximum likelihood of PPCA (Lucas et al., arXiv 1911.02469)."""
    model = Linear()
    items, head = model.items(256), built(scale=model.scale)
    centred = items.flatten(1) - items.flatten(1).mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(items))
    top, noise = values[-3:], model.scale**2
    covariance = vectors[:, -3:] @ torch.diag((top - noise).clamp_min(0)) @ vectors[:, -3:].T + noise * torch.eye(12, dtype=torch.float64)
    best = -float(MultivariateNormal(items.flatten(1).mean(0), covariance).log_prob(items.flatten(1)).mean()) / 12
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-2)
    for step in range(500):
        optimizer.zero_grad()
        loss(head, items, first=1000 * step).mean().backward()
        optimizer.step()
    reached = sum(float(loss(head, items, first=-1000 * step - 1000).mean().detach()) for step in range(20)) / 20
    assert reached == pytest.approx(best, abs=0.02)


def test_beta_and_free_bits_change_training_alone() -> None:
    model = Linear()
    items, plain = model.items(4), model.head()
    posterior = plain.encode(items, HIDDEN.expand(4, -1, -1))
    kl = posterior.kl()
    other = model.head(beta=3.0, free_bits=0.4)
    expected = loss(plain, items) + (3 * kl.clamp_min(0.4).sum(1) - kl.sum(1)) / 12
    torch.testing.assert_close(loss(other, items), expected)
    torch.testing.assert_close(loss(other.eval(), items), loss(plain, items))
    assert plain.loss_ranks_weights
    assert not other.loss_ranks_weights


def test_figures_add_up_to_the_loss_and_show_a_collapse() -> None:
    model, found = Linear(), dict[str, Tensor]()
    items, head = model.items(4), model.head()
    total = loss(head, items, on_figure=found.__setitem__)
    torch.testing.assert_close(found["reconstruction"] + found["kl"], total.detach())
    assert head.advice({name: float(figure.mean()) for name, figure in found.items()}) is None
    nn.init.zeros_(head.posterior.weight)
    nn.init.zeros_(head.posterior.bias)
    loss(head, items, on_figure=found.__setitem__)
    advice = head.advice({name: float(figure.mean()) for name, figure in found.items()})
    assert advice is not None
    assert "collapsed onto the prior" in advice


def test_what_is_drawn_is_the_mean_or_has_the_models_covariance() -> None:
    model = Linear()
    hidden = HIDDEN.expand(4000, -1, -1)
    for draw, spread in (("mean", model.weight @ model.weight.T), ("sample", model.marginal.covariance_matrix)):
        head = model.head(draw=draw)
        with torch.no_grad():
            found = head.sample(hidden, PerSampleRNG(0, range(4000)), SamplingConfig(), HeadContext()).values.flatten(1)
        assert float((torch.cov(found.double().T) - spread).abs().max()) < 6 * float(spread.diagonal().max()) * (2 / 4000) ** 0.5
    still = model.head(draw="sample").sample(hidden[:2], PerSampleRNG(0, range(2)), SamplingConfig(temperature=0), HeadContext()).values
    torch.testing.assert_close(still.double().flatten(1), model.bias.expand(2, -1))


def test_a_learned_scale_has_a_floor() -> None:
    head = built(least_scale=0.05)
    assert head.log_scale is not None
    nn.init.constant_(head.log_scale, -30.0)
    torch.testing.assert_close((head.log_variance / 2).exp(), torch.full((3,), 0.05, dtype=torch.float64))
    nn.init.constant_(head.log_scale, math.log(0.5))
    torch.testing.assert_close(head.log_variance.exp(), torch.full((3,), 0.5**2 + 0.05**2, dtype=torch.float64))


def test_convolutional_networks_with_a_condition() -> None:
    torch.manual_seed(0)
    layout = Layout((4, 4), channels=3)
    head = VAE.model_validate({"generator": SMALL, "encoder": SMALL, "noise": 4, "condition": 8}).build(5, layout, 6)
    condition = Conditioning.single(torch.randn(3, 6))
    context = HeadContext(coords=layout.coordinates(), condition=condition, draws=Draws(torch.arange(3)))
    found = head.loss(torch.randn(3, 16, 5), torch.randn(3, 16, 3), context)
    assert found.shape == (3,)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    with pytest.raises(ValueError, match=r"give HeadContext\(condition="):
        head.loss(torch.randn(3, 16, 5), torch.randn(3, 16, 3), HeadContext(coords=layout.coordinates()))
