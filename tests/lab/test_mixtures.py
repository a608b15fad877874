"""Gaussian mixtures and the energy distance, by closed forms and by a direct reference."""

from __future__ import annotations

import pytest
import torch

from jielong.apps.lab.mixtures import Mixtures, energy_distance
from jielong.apps.lab.toy_tasks import continuous_heads, sample_head, train_head

SMALL = {"mlp": {"layers": 1, "width": 16}}


@pytest.fixture(scope="module")
def mixtures() -> Mixtures:
    return Mixtures.drawn(3, 4, 5, 8, seed=0)


def test_tokens_are_standardised_over_all_hidden_vectors(mixtures: Mixtures) -> None:
    share = mixtures.weights[..., None] / 3
    mean = (share * mixtures.means).sum((0, 1))
    square = (share * (mixtures.means.square() + mixtures.factors.square().sum(-1))).sum((0, 1))
    torch.testing.assert_close(mean, torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(square, torch.ones(5), rtol=1e-4, atol=0)


def test_tokens_have_the_moments_of_their_mixture(mixtures: Mixtures) -> None:
    count = 40_000
    drawn = mixtures.rounds(1, count, seed=0)[0].double()
    weights, means, factors = mixtures.weights.double(), mixtures.means.double(), mixtures.factors.double()
    mean = (weights[..., None] * means).sum(1)
    covariance = (weights[..., None, None] * (factors @ factors.mT + means[..., None] * means[..., None, :])).sum(1)
    covariance -= mean[..., None] * mean[..., None, :]
    off = drawn.mean(1) - mean
    # Six standard errors: 15 means and 45 covariances are all within them but for a chance below 1e-6.
    assert (off.abs() < 6 * (covariance.diagonal(dim1=1, dim2=2) / count).sqrt()).all()
    centred = drawn - mean[:, None]
    products = centred[..., None] * centred[..., None, :]
    assert ((products.mean(1) - covariance).abs() < 6 * products.std(1) / count**0.5).all()


def test_seeds_decide_and_the_global_generator_is_left_alone(mixtures: Mixtures) -> None:
    torch.manual_seed(3)
    one = mixtures.rounds(2, 4, seed=5)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), after)
    assert one.shape == (2, 3, 4, 5)
    assert torch.equal(one, mixtures.rounds(2, 4, seed=5))
    assert not torch.equal(one, mixtures.rounds(2, 4, seed=6))
    assert not torch.equal(one[0], one[1])


def test_the_energy_distance_is_that_of_its_definition() -> None:
    x, y = torch.randn(2, 1, 6, 3, generator=torch.Generator().manual_seed(0)).double().unbind(0)
    wanted = 2 * torch.stack([(a - b).norm() for a in x[0] for b in y[0]]).mean()
    for each in (x[0], y[0]):
        wanted -= torch.stack([(each[i] - each[j]).norm() for i in range(6) for j in range(6) if i != j]).mean()
    assert energy_distance(x[None], y[None]).item() == pytest.approx(wanted.item(), rel=1e-12)


def test_the_energy_distance_is_zero_for_the_same_and_known_for_points() -> None:
    mixtures = Mixtures.drawn(2, 2, 4, 8, seed=1)
    distance = energy_distance(mixtures.rounds(64, 32, seed=0), mixtures.rounds(64, 32, seed=1))
    assert distance.shape == (64,)
    assert (distance < 0).any(), "an unbiased estimate of zero is sometimes negative"
    assert abs(distance.mean().item()) < 6 * distance.std().item() / 8
    at, other = torch.zeros(1, 1, 5, 2), torch.tensor([3.0, 4.0]).expand(1, 1, 5, 2)
    assert energy_distance(at, other).item() == pytest.approx(10)  # twice the distance of two points


def test_rounds_are_independent_and_heads_start_at_the_same_noise(mixtures: Mixtures) -> None:
    parts = continuous_heads(8, 5, 256, SMALL)
    head = train_head(parts["flow_matching"], mixtures, 2, seed=0)
    two, four = (sample_head(head, mixtures, 2, 3, 0, nfe) for nfe in (2, 4))
    assert two.shape == (2, 3, 3, 5)
    assert not torch.equal(two, four)
    assert not torch.equal(two[0], two[1])
    assert torch.equal(two, sample_head(head, mixtures, 2, 3, 0, 2))
    # An untrained velocity of zero leaves noise where it is: the same for both heads.
    fresh = [train_head(parts[name], mixtures, 0, seed=0) for name in ("flow_matching", "mean_flow")]
    torch.testing.assert_close(*(sample_head(each, mixtures, 1, 3, 0, 1) for each in fresh))


def test_schedules_follow_the_training_samples() -> None:
    parts = continuous_heads(8, 5, 777, SMALL, {"consistency": {"levels": {"last": 40}}})
    chosen = parts["consistency"].model_dump()
    assert chosen["consistency"]["levels"] | {"samples": 777, "last": 40} == chosen["consistency"]["levels"]
    assert chosen["consistency"]["network"] == {"mlp": SMALL["mlp"]}
    assert not {"softmax", "logistic_mixture"} & set(parts)
