"""Units beside vectors: the loss is the sum of two, a vector belongs to the unit that was drawn, and both streams learn."""

from __future__ import annotations

import pytest
import torch
from distribution import assert_same_distribution
from torch import Tensor

from jielong.config.registry import parse_part
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.gaussian_mixture import GaussianMixture
from jielong.heads.semantic_acoustic import SemanticAcoustic, SemanticAcousticHead
from jielong.networks.denoiser import MLP
from jielong.networks.dit import DiT
from jielong.quantizers.residual import Residual
from jielong.quantizers.vector import Vector

D, C = 6, 2
LAYOUT = Layout((4,), channels=C)
NORMAL = GaussianMixture(components=1)
SETTINGS = SemanticAcoustic(
    quantizer=Vector(codebook_size=4, restart_below=0), acoustic=FlowMatching(network=MLP(layers=1, width=16), steps=4), embedding=8
)


def built(settings: SemanticAcoustic = SETTINGS) -> SemanticAcousticHead:
    torch.manual_seed(0)
    head = settings.build(D, LAYOUT)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head


def corners(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Clouds around (+-2, +-2)."""
    signs = torch.randint(2, (count, 2), generator=generator) * 4.0 - 2
    return signs + 0.3 * torch.randn(count, 2, generator=generator)


def test_settings_survive_their_own_dump() -> None:
    assert parse_part("head", SETTINGS.model_dump(mode="json")) == SETTINGS


def test_the_loss_is_that_of_the_unit_and_of_the_vector_given_it() -> None:
    head = built(SETTINGS.model_copy(update={"weight": 3.0, "acoustic": NORMAL})).eval()
    hidden, targets = torch.randn(50, D), corners(50)
    units = head.encode(targets)
    probability = head.semantic.scores(hidden)[:, 0].softmax(-1).gather(1, units)[:, 0]
    expected = -3 * probability.log() + head.acoustic.loss(torch.cat([hidden, head.embedding(units[:, 0])], 1), targets)
    torch.testing.assert_close(head.loss(hidden, targets), expected)


def test_units_are_nearest_centres_that_follow_the_vectors() -> None:
    head = built(SETTINGS.model_copy(update={"quantizer": Vector(codebook_size=16, restart_below=0)})).train()
    for _ in range(30):
        head.loss(torch.randn(64, D), corners(64))
    clouds = corners(200)
    near = head.quantizer.decode(head.encode(clouds))
    assert float((near - clouds).detach().abs().max()) < 1.2
    kept = head.quantizer.decode(torch.arange(16)[:, None]).clone()
    head.eval()
    head.loss(torch.randn(64, D), 5 + corners(64))
    assert torch.equal(head.quantizer.decode(torch.arange(16)[:, None]), kept)


def test_draws_are_of_the_unit_and_top_k_is_of_units() -> None:
    head = built().eval()
    hidden, null = torch.randn(5, 3, D), torch.randn(5, 3, D)
    seen = []
    sample = head.acoustic.sample

    def spy(*given: object, **more: object) -> object:
        seen.append(given)
        return sample(*given, **more)  # type: ignore[arg-type]

    head.acoustic.sample = spy  # type: ignore[method-assign, assignment]
    draw = head.sample(hidden, PerSampleRNG(0, range(5)), SamplingConfig(top_k=1), HeadContext(null, 2.0))
    best = (null + 2 * (hidden - null)) @ head.semantic.logits.weight.T
    expected = head.embedding(best.argmax(-1))
    given, other = seen[0][0], seen[0][3].null
    torch.testing.assert_close(given, torch.cat([hidden, expected], -1))
    torch.testing.assert_close(other, torch.cat([null, expected], -1))
    assert draw.values.shape == (5, 3, C)
    assert draw.confidence is not None
    torch.testing.assert_close(draw.confidence, torch.zeros(5, 3))
    alone = head.sample(hidden[2:3], PerSampleRNG(0, [2]), SamplingConfig(top_k=1), HeadContext(null[2:3], 2.0))
    torch.testing.assert_close(alone.values[0], draw.values[2], rtol=1e-4, atol=1e-4)


def test_both_streams_learn_a_distribution() -> None:
    """Four clouds, whose hidden vector says nothing: a unit of each, and a normal around it."""
    torch.manual_seed(0)
    head = SemanticAcoustic(quantizer=Vector(codebook_size=4, restart_below=0), acoustic=NORMAL, embedding=8).build(D, LAYOUT).train()
    head.quantizer.begin(torch.tensor([[2.0, 2], [2, -2], [-2, 2], [-2, -2]]), torch.ones(4))  # type: ignore[operator]
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(400):
        loss = head.loss(torch.zeros(128, D), corners(128)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    head.eval()
    with torch.no_grad():
        found = head.sample(torch.zeros(800, 1, D), PerSampleRNG(0, range(800)), SamplingConfig()).values[:, 0]
    assert_same_distribution(found, corners(800, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (SemanticAcoustic(acoustic=FlowMatching(network=DiT(layers=1, width=16, heads=2))), "may not be joint"),
        (SemanticAcoustic(quantizer=Residual()), "choose quantizer: vector"),
    ],
)
def test_what_does_not_fit_is_refused(settings: SemanticAcoustic, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        settings.build(D, LAYOUT)


def test_codes_have_no_units() -> None:
    with pytest.raises(ValueError, match="needs continuous tokens"):
        SETTINGS.build(D, Layout((4,), channels=1, vocabulary=8))
