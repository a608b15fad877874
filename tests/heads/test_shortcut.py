"""Shortcut models against closed forms."""

from __future__ import annotations

import pytest
import torch
from distribution import gap
from flow_maps import Exact, both_points, drawn, gaussian_map, gaussian_velocity, train_on_two_points
from pydantic import ValidationError
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.flow_matching import FlowMatchingHead
from jielong.heads.shortcut import Shortcut, ShortcutHead
from jielong.networks.denoiser import MLP

LAYOUT = Layout((2,), 3)
MEAN, DEVIATION = 0.7, 0.6


def exact_step(x: Tensor, t: Tensor, level: Tensor, hidden: Tensor) -> Tensor:
    """``(x_{t + d} - x_t) / d`` of Gaussian data, with ``d = 2^-(7 level)``: exact at every length."""
    step = 2.0 ** -(7 * level)
    return (gaussian_map(x, t, t + step, MEAN, DEVIATION) - x) / step


def rows(count: int = 64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, noise, times and levels, the finest among them."""
    torch.manual_seed(0)
    levels = torch.arange(count) % 8
    times = (torch.rand(count, dtype=torch.double) * 2.0**levels).floor() / 2.0**levels
    return MEAN + DEVIATION * torch.randn(count, 3, dtype=torch.double), torch.randn(count, 3, dtype=torch.double), times, levels


def at_rows(network: torch.nn.Module, hidden: Tensor):  # type: ignore[no-untyped-def]
    return lambda x, times, rows=None: network(x, times, hidden if rows is None else hidden[rows])


def test_the_exact_step_is_what_two_halves_say() -> None:
    """The semigroup: a fixed point of the bootstrap at every length and time."""
    tokens, noise, times, levels = rows()
    head = ShortcutHead(Exact(exact_step, 2), LAYOUT, Shortcut(clip=100.0))
    x = torch.lerp(noise, tokens, times[:, None])
    ask, coarse = at_rows(head.network, tokens), levels < 7
    halves = head.two_halves(x[coarse], times[coarse], levels[coarse], ask, coarse.nonzero()[:, 0])
    torch.testing.assert_close(halves, ask(x, head._when(times, levels))[coarse], rtol=1e-9, atol=1e-9)
    errors = head.errors(tokens, noise, times, levels, ask)
    assert float(errors[coarse].max()) < 1e-18
    assert float(errors[~coarse].min()) > 1e-6  # plain copies have the chance of their own noise


def test_plain_copies_are_flow_matching_and_the_others_the_formula() -> None:
    tokens, noise, times, levels = rows()
    torch.manual_seed(1)
    head = Shortcut(network=MLP(layers=1, width=16), clip=0.9).build(4, LAYOUT).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    hidden = torch.randn(64, 4, dtype=torch.double)
    ask = at_rows(head.network, hidden)
    found = head.errors(tokens, noise, times, levels, ask)
    plain = levels == 7
    only = FlowMatchingHead.errors(tokens, noise, times, lambda x, t, rows=None: ask(x, torch.cat([t, torch.ones_like(t)], dim=-1)))
    assert torch.equal(found[plain], only[plain])
    bound = 0
    for row in (~plain).nonzero()[:, 0].tolist():
        x, t, half = torch.lerp(noise, tokens, times[:, None])[row : row + 1], times[row], 0.5 ** (int(levels[row]) + 1)

        def step(x: Tensor, t: Tensor, level: int, row: int = row) -> Tensor:
            return head.network(x, torch.stack([t, torch.tensor(level / 7, dtype=torch.double)])[None], hidden[row : row + 1])

        first = step(x, t, int(levels[row]) + 1)
        moved = (x + half * first).clamp(-0.9, 0.9)
        target = ((first + step(moved, t + half, int(levels[row]) + 1)) / 2).clamp(-0.9, 0.9)
        bound += int((target.abs() == 0.9).sum())
        expected = (step(x, t, int(levels[row])) - target).square().mean()
        torch.testing.assert_close(found[row], expected)
    assert bound > 0  # the clip was put to the test


def test_the_bootstrapped_target_has_no_gradient() -> None:
    tokens, noise, times, _ = rows()
    levels = torch.zeros(64, dtype=torch.long)
    factor = torch.tensor(0.5, dtype=torch.double, requires_grad=True)
    head = ShortcutHead(Exact(lambda x, t, level, hidden: factor * x, 2), LAYOUT, Shortcut(clip=100.0))
    head.errors(tokens, noise, 0 * times, levels, at_rows(head.network, tokens)).sum().backward()
    # s = a x; x' = (1 + a/2) x; target = (a + a (1 + a/2)) x / 2 = (a + a^2 / 4) x; d/da (a - target)^2 x^2 = 2 (a - target) x^2.
    expected = (2 * (0.5 - (0.5 + 0.25 / 4)) * noise.square()).mean(-1).sum()
    assert factor.grad is not None
    torch.testing.assert_close(factor.grad, expected)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_times_lie_on_the_grid_of_their_step_and_lengths_have_the_given_distribution(share: float) -> None:
    seen = []

    class Spy(ShortcutHead):
        def errors(self, targets, noise, times, levels, predict, real=None):  # type: ignore[no-untyped-def]
            seen.append((times, levels))
            return super().errors(targets, noise, times, levels, predict)

    torch.manual_seed(0)
    Spy(Exact(exact_step, 2), LAYOUT, Shortcut(bootstrap=share)).loss(torch.zeros(5_000, 4), torch.randn(5_000, 3))
    ((times, levels),) = seen
    places = times * 2.0**levels
    assert torch.equal(places, places.round())
    assert 0 <= float(times.min()) <= float(times.max()) < 1
    counts = torch.bincount(levels, minlength=8) / len(levels)
    expected = torch.tensor([share / 7] * 7 + [1 - share])
    assert bool(((counts - expected).abs() <= 5 * (expected * (1 - expected) / len(levels)).sqrt()).all())


@pytest.mark.parametrize(("nfe", "done"), [(1, 1), (2, 2), (3, 2), (8, 8), (127, 64), (128, 128), (1000, 128)])
def test_steps_are_the_greatest_power_of_two_and_land_exactly(nfe: int, done: int) -> None:
    network = Exact(exact_step, 2)
    found = drawn(ShortcutHead(network, LAYOUT), steps=nfe, items=20)
    noise = drawn(ShortcutHead(Exact(lambda x, t, level, hidden: 0 * x, 2), LAYOUT), items=20)
    torch.testing.assert_close(found, MEAN + DEVIATION * noise, rtol=1e-3, atol=1e-3)
    level = (done - 1).bit_length() / 7
    assert network.asked == [pytest.approx([step / done, level]) for step in range(done)]


def test_at_the_finest_step_it_is_eulers_flow() -> None:
    """A network that does not know lengths is a plain velocity."""
    field = Exact(lambda x, t, level, hidden: gaussian_velocity(x, t, MEAN, DEVIATION), 2)
    plain = Exact(lambda x, t, hidden: gaussian_velocity(x, t, MEAN, DEVIATION))
    found = drawn(ShortcutHead(field, LAYOUT), steps=32, items=20)
    torch.testing.assert_close(found, drawn(FlowMatchingHead(plain, LAYOUT), steps=32, items=20), rtol=1e-5, atol=1e-5)


def test_the_untrained_loss_is_the_tokens_and_the_noises_square_where_plain_and_0_where_bootstrapped() -> None:
    tokens, noise, times, levels = rows()
    head = Shortcut().build(4, LAYOUT).double()
    found = head.errors(tokens, noise, times, levels, at_rows(head.network, torch.randn(64, 4).double()))
    torch.testing.assert_close(found, torch.where(levels == 7, (tokens - noise).square().mean(-1), 0))


def test_outside_training_the_loss_is_flow_matchings() -> None:
    """On times of the finest grid; the figure of unit Gaussians, within five deviations of the mean and the grid's own error."""
    head = ShortcutHead(Exact(lambda x, t, level, hidden: gaussian_velocity(x, t, 0.0, 1.0), 2), LAYOUT, Shortcut(bootstrap=1.0)).eval()
    torch.manual_seed(0)
    loss = head.loss(torch.zeros(20_000, 4), torch.randn(20_000, 3))
    assert float(loss.mean()) == pytest.approx(torch.pi / 2, abs=5 * float(loss.std()) / 20_000**0.5 + 1e-3)


def test_one_step_finds_both_points_and_lands_near_two_half_ones() -> None:
    torch.manual_seed(0)
    head = Shortcut(network=MLP(layers=1, width=32), diffusion_batch_mul=1, bootstrap=0.5).build(4, Layout((1,)))
    before = gap(drawn(head), both_points())
    train_on_two_points(head, 120)
    one, two = drawn(head), drawn(head, steps=2)
    assert gap(one, both_points()).distance < 0.12 < before.distance
    assert float((one.abs() > 0.5).float().mean()) > 0.85
    assert 0.4 < float((one > 0).float().mean()) < 0.6
    assert float((one - two).abs().mean()) < 0.3


def test_settings_that_do_not_halve_are_refused() -> None:
    with pytest.raises(ValidationError, match="power of two, such as 64, not 100"):
        Shortcut(finest=100)
    assert Shortcut(finest=2).build(4, LAYOUT).sample(
        torch.zeros(1, 2, 4), PerSampleRNG(0, [0]), SamplingConfig(num_inference_steps=2)
    ).values.shape == (
        1,
        2,
        3,
    )
