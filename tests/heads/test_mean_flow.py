"""MeanFlow against closed forms. A right implementation fails a statistical test with probability below 1e-6."""

from __future__ import annotations

import pytest
import torch
from distribution import gap
from flow_maps import Exact, both_points, drawn, gaussian_map, gaussian_velocity, train_on_two_points
from torch import Tensor

from jielong.core.tokens import Layout
from jielong.heads.flow_matching import SLOW, FlowMatchingHead, Times
from jielong.heads.mean_flow import MeanFlow, MeanFlowHead
from jielong.networks.denoiser import MLP

LAYOUT = Layout((2,), 3)
MEAN, DEVIATION = 0.7, 0.6


def exact_mean(x: Tensor, start: Tensor, span: Tensor, hidden: Tensor) -> Tensor:
    """``u`` of Gaussian data by its definition, in the network's arguments."""
    start, end = start / SLOW, (start + span) / SLOW
    jump = (gaussian_map(x, start, end, MEAN, DEVIATION) - x) / torch.where(end > start, end - start, 1)
    return torch.where(end > start, jump, gaussian_velocity(x, start, MEAN, DEVIATION))


def rows(count: int = 64, dtype: torch.dtype = torch.double) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, noise, and the two times of a jump."""
    torch.manual_seed(0)
    one, other = torch.rand(2, count, dtype=dtype) * 0.9
    tokens = MEAN + DEVIATION * torch.randn(count, 3, dtype=dtype)
    return tokens, torch.randn(count, 3, dtype=dtype), torch.minimum(one, other), torch.maximum(one, other) + 0.05


def at_rows(network: torch.nn.Module, hidden: Tensor):  # type: ignore[no-untyped-def]
    """What a loss is given to ask its network with."""
    return lambda x, times, rows=None: network(x, times, hidden if rows is None else hidden[rows])


def filled(improved: bool = False, dtype: torch.dtype = torch.double, **settings: object) -> MeanFlowHead:
    """A head whose network does something."""
    torch.manual_seed(1)
    head = MeanFlow(network=MLP(layers=2, width=16), improved=improved, **settings).build(4, LAYOUT).to(dtype)  # type: ignore[arg-type]
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head


@pytest.mark.parametrize("improved", [False, True])
def test_the_exact_mean_velocity_satisfies_the_identity(improved: bool) -> None:
    """``u = v + (r - t) du/dt`` with ``v`` and ``du/dt`` along the flow itself: nothing is left of the error, at any jump."""
    tokens, noise, start, end = rows()
    head = MeanFlowHead(Exact(exact_mean, 2), LAYOUT)
    x = torch.lerp(noise, tokens, start[:, None])
    ask = at_rows(head.network, tokens)
    velocity = gaussian_velocity(x, start[:, None], MEAN, DEVIATION)
    slope = head.slope(x, start, end, velocity, ask)
    mean = ask(x, SLOW * torch.stack([start, end - start], dim=-1))
    torch.testing.assert_close(mean, velocity + (end - start)[:, None] * slope, rtol=1e-9, atol=1e-9)
    if improved:  # the predicted velocity is the tangent, so only the noise of the target is left: that of flow matching
        both = MeanFlowHead(
            Exact(lambda *given: torch.cat([exact_mean(*given), gaussian_velocity(given[0], given[1] / SLOW, MEAN, DEVIATION)], -1), 2),
            LAYOUT,
        )
        of_mean, of_velocity = both.errors(tokens, noise, start, end, at_rows(both.network, tokens))
        torch.testing.assert_close(of_mean, (velocity - (tokens - noise)).square().sum(-1), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(of_velocity, of_mean, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("dtype", "bound", "step"), [(torch.float32, 1e-3, 1e-6), (torch.float64, 1e-6, 1e-6)])
@pytest.mark.parametrize("improved", [False, True])
def test_the_product_is_a_finite_difference_along_the_flow(dtype: torch.dtype, bound: float, step: float, improved: bool) -> None:
    """``(u(x + h v, t + h, r) - u(x - h v, t - h, r)) / 2 h``: ``r`` stands still. The differences are taken in float64."""
    tokens, noise, start, end = rows()
    head, hidden = filled(improved), torch.randn(64, 4, dtype=torch.double)
    velocity, x = tokens - noise, torch.lerp(noise, tokens, start[:, None])

    def mean(move: float) -> Tensor:
        times = SLOW * torch.stack([start + move, end - start - move], dim=-1)
        return head.network(x + move * velocity, times, hidden)[:, :3].detach()

    expected = (mean(step) - mean(-step)) / (2 * step)
    head = head.to(dtype)
    given = [each.to(dtype) for each in (x, start, end, velocity)]
    found = head.slope(*given, at_rows(head.network, hidden.to(dtype)))
    assert found.dtype == dtype
    assert not found.requires_grad
    assert float((found - expected).norm() / expected.norm()) < bound
    # A wrong tangent that looks plausible, without the velocity, is far away.
    still = head.slope(given[0], given[1], given[2], torch.zeros_like(given[3]), at_rows(head.network, hidden.to(dtype)))
    assert float((still - expected).norm() / expected.norm()) > 10 * bound


def test_the_target_is_the_formula_and_has_no_gradient() -> None:
    tokens, noise, start, end = rows()
    end = torch.where(torch.arange(64) % 2 == 0, start, end)
    head, hidden = filled(), torch.randn(64, 4, dtype=torch.double)
    ask = at_rows(head.network, hidden)
    (found,) = head.errors(tokens, noise, start, end, ask)
    x, velocity = torch.lerp(noise, tokens, start[:, None]), tokens - noise
    mean = ask(x, SLOW * torch.stack([start, end - start], dim=-1))
    target = velocity + (end - start)[:, None] * head.slope(x, start, end, velocity, ask)
    torch.testing.assert_close(found, (mean - target).square().sum(-1))
    weight = next(head.parameters())
    expected = torch.autograd.grad((mean - target.detach()).square().sum(), weight)[0]
    torch.testing.assert_close(torch.autograd.grad(found.sum(), weight)[0], expected)
    # The adaptive weight is a constant to the gradient.
    weighted = head._weighted(head.errors(tokens, noise, start, end, ask)[0])
    scale = 1 / (found.detach() + 0.01)
    found = head.errors(tokens, noise, start, end, ask)[0]
    expected = torch.autograd.grad((scale * found).sum(), weight)[0]
    torch.testing.assert_close(torch.autograd.grad(weighted.sum(), weight)[0], expected)


def test_where_both_times_are_one_it_is_flow_matching_exactly() -> None:
    tokens, noise, start, _ = rows()
    head, hidden = filled(), torch.randn(64, 4, dtype=torch.double)
    (found,) = head.errors(tokens, noise, start, start, at_rows(head.network, hidden))

    def velocity(x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
        return head.network(x, SLOW * torch.cat([times, torch.zeros_like(times)], dim=-1), hidden)

    assert torch.equal(found / 3, FlowMatchingHead.errors(tokens, noise, start, velocity))


@pytest.mark.parametrize(("kind", "floor"), [("uniform", torch.pi / 2), ("logit_normal", 1.741)])
def test_without_jumps_the_floor_is_that_of_flow_matching(kind: str, floor: float) -> None:
    """Card's figures for unit Gaussians, a value: the loss sums them. Five deviations of the mean."""
    head = MeanFlowHead(
        Exact(lambda x, start, span, hidden: gaussian_velocity(x, start / SLOW, 0.0, 1.0), 2),
        LAYOUT,
        MeanFlow.model_validate({"times": {"kind": kind}, "same": 1.0, "power": 0.0}),
    )
    torch.manual_seed(0)
    loss = head.loss(torch.zeros(20_000, 4), torch.randn(20_000, 3)) / 3
    assert float(loss.mean()) == pytest.approx(floor, abs=5 * float(loss.std()) / 20_000**0.5 + 5e-4)


@pytest.mark.parametrize("same", [0.0, 0.75, 1.0])
def test_the_share_without_a_jump_and_the_order_of_times(same: float) -> None:
    seen = []

    class Spy(MeanFlowHead):
        def errors(self, targets, noise, start, end, predict, real=None):  # type: ignore[no-untyped-def]
            seen.append((start, end))
            return super().errors(targets, noise, start, end, predict)

    torch.manual_seed(0)
    head = Spy(Exact(exact_mean, 2), LAYOUT, MeanFlow(same=same, diffusion_batch_mul=2))
    assert head.loss(torch.zeros(5_000, 4), torch.randn(5_000, 3)).shape == (5_000,)
    ((start, end),) = seen
    assert bool((start <= end).all())
    share = float((start == end).float().mean())
    assert abs(share - same) < 5 * (same * (1 - same) / 10_000) ** 0.5 + 1e-9


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_exact_mean_velocity_draws_exactly_in_any_number_of_steps(steps: int) -> None:
    """One step returns ``m + s e``; several the same, for the map is a semigroup."""
    network = Exact(exact_mean, 2)
    found = drawn(MeanFlowHead(network, LAYOUT), steps=steps, items=40)
    noise = drawn(MeanFlowHead(Exact(lambda x, start, span, hidden: 0 * x, 2), LAYOUT), items=40)
    torch.testing.assert_close(found, MEAN + DEVIATION * noise, rtol=1e-4, atol=1e-5)
    assert len(network.asked) == steps
    expected = [[SLOW * step / steps, SLOW / steps] for step in range(steps)]
    torch.testing.assert_close(torch.tensor(network.asked), torch.tensor(expected))


def test_the_untrained_loss_is_the_tokens_and_the_noises_square() -> None:
    """An untrained network and its product are 0: the error is ``|x_1 - x_0|^2``, of mean ``1 + E x^2`` a value."""
    tokens, noise, start, end = rows()
    for improved in (False, True):
        head = MeanFlow(improved=improved, power=0.0, diffusion_batch_mul=1).build(4, LAYOUT).double()
        for error in head.errors(tokens, noise, start, end, at_rows(head.network, torch.randn(64, 4).double())):
            torch.testing.assert_close(error, (tokens - noise).square().sum(-1))


@pytest.mark.parametrize("improved", [False, True])
def test_one_step_finds_both_points(improved: bool) -> None:
    """Where one step of plain flow matching would land between the two, at 0."""
    torch.manual_seed(0)
    head = MeanFlow(network=MLP(layers=1, width=32), diffusion_batch_mul=1, improved=improved, same=0.5 if improved else 0.75).build(
        4, Layout((1,))
    )
    before = gap(drawn(head), both_points())
    train_on_two_points(head, 120)
    found = drawn(head)
    after = gap(found, both_points())
    assert after.distance < 0.1 < before.distance
    assert float((found.abs() > 0.6).float().mean()) > 0.9
    assert 0.4 < float((found > 0).float().mean()) < 0.6


def test_losses_are_measured_without_gradients_too() -> None:
    head = filled(dtype=torch.float32, same=0.0)
    hidden, tokens = torch.randn(8, 4), torch.randn(8, 3)
    torch.manual_seed(3)
    expected = head.loss(hidden, tokens)
    for quiet in (torch.no_grad, torch.inference_mode):
        torch.manual_seed(3)
        with quiet():
            torch.testing.assert_close(head.loss(hidden, tokens), expected.detach())


def test_outside_training_the_loss_is_flow_matchings() -> None:
    """Both of the same mean: figures of unit Gaussians, whatever the weight, the share and the form."""
    for improved in (False, True):
        exact = Exact(lambda x, start, *_: gaussian_velocity(x, start / SLOW, 0.0, 1.0).repeat(1, 1 + improved), 2)  # noqa: B023
        head = MeanFlowHead(exact, LAYOUT, MeanFlow(times=Times(), same=0.0, improved=improved)).eval()
        torch.manual_seed(0)
        loss = head.loss(torch.zeros(20_000, 4), torch.randn(20_000, 3))
        assert float(loss.mean()) == pytest.approx(1.741, abs=5 * float(loss.std()) / 20_000**0.5 + 5e-4)
