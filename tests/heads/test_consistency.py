"""Consistency training against closed forms. A right implementation fails a statistical test with probability below 1e-6."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from distribution import assert_same_distribution, gap
from flow_maps import Exact, both_points, drawn, train_on_two_points
from pydantic import ValidationError
from scipy import stats
from torch import Tensor, nn

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.consistency import Consistency, ConsistencyHead, Levels
from jielong.heads.flow_matching import SLOW
from jielong.networks.denoiser import MLP
from jielong.training.generator_objective import GeneratorObjective
from jielong.training.objective import StepRNG

LAYOUT = Layout((2,), 3)
LOW = Levels().low


def exact(deviation: float, of: float = 1.0) -> Exact:
    """The network that makes ``f`` right for ``N(m, s^2)``: ``f = m + sqrt((s^2 + t_min^2) / (s^2 + t^2)) (x - m)``.

    The hidden vectors are ``m``.
    """

    def network(scaled: Tensor, when: Tensor, hidden: Tensor) -> Tensor:
        level, mean = (4 * when / SLOW).exp(), hidden[:, : scaled.shape[1]]
        x = scaled * (level**2 + of**2).sqrt()
        answer = mean + ((deviation**2 + LOW**2) / (deviation**2 + level**2)).sqrt() * (x - mean)
        skip = of**2 / ((level - LOW) ** 2 + of**2)
        return (answer - skip * x) / ((level - LOW) * of / (level**2 + of**2).sqrt()).clamp_min(1e-12)

    return Exact(network)


def filled(**settings: Any) -> ConsistencyHead:
    """A head whose network does something, in float64."""
    torch.manual_seed(1)
    head = Consistency(network=MLP(layers=1, width=16), **settings).build(4, LAYOUT).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    return head


def test_at_the_least_level_the_answer_is_the_input_whatever_the_network() -> None:
    head, x = filled(deviation=0.7), torch.randn(5, 3, dtype=torch.double)
    assert torch.equal(head.denoised(x, torch.tensor(LOW, dtype=torch.double), 100 * torch.randn(5, 3)), x)


def test_scalings_and_grid_are_those_of_diffusers() -> None:
    name = "diffusers.schedulers.scheduling_consistency_models"
    scheduler = pytest.importorskip(name, reason="diffusers is not installed").CMStochasticIterativeScheduler(num_train_timesteps=41)
    scheduler.set_timesteps(41)
    levels = Levels().grid(40)
    torch.testing.assert_close(levels.flip(0).float(), scheduler.sigmas[:41].float(), rtol=1e-4, atol=1e-6)
    head = ConsistencyHead(exact(0.5), LAYOUT, Consistency(deviation=0.5))
    for level in levels.tolist():
        skip, out = scheduler.get_scalings_for_boundary_condition(level)
        here = torch.tensor(level, dtype=torch.double)
        assert float(head.denoised(torch.ones(()).double(), here, torch.zeros(()).double())) == pytest.approx(float(skip), rel=1e-6)
        assert float(head.denoised(torch.zeros(()).double(), here, torch.ones(()).double())) == pytest.approx(
            float(out), rel=1e-6, abs=1e-12
        )


def test_one_point_leaves_no_loss() -> None:
    """Tokens that are all ``m``: ``f = m + t_min e`` along every trajectory, so neighbours agree exactly."""
    head = ConsistencyHead(exact(0.0), LAYOUT)
    torch.manual_seed(0)
    tokens, noise, index = torch.randn(50, 3, dtype=torch.double), torch.randn(50, 3, dtype=torch.double), torch.randint(40, (50,))
    grid = Levels().grid(40)
    errors = head.errors(tokens, noise, grid[index], grid[index + 1], lambda x, t, rows=None: head.network(x, t, tokens))
    assert float(errors.abs().max()) < 1e-6


def test_the_loss_is_the_formula_and_its_target_has_no_gradient() -> None:
    head = filled(deviation=0.8, huber=0.3)
    tokens, noise, hidden = (torch.randn(6, size, dtype=torch.double) for size in (3, 3, 4))
    low, high = Levels().grid(5)[:5][[0, 1, 2, 3, 4, 1]], Levels().grid(5)[1:][[0, 1, 2, 3, 4, 1]]
    found = head.errors(tokens, noise, low, high, lambda x, t, rows=None: head.network(x, t, hidden))

    def answer(row: int, level: float) -> Tensor:
        x = tokens[row] + level * noise[row]
        scale = math.sqrt(level**2 + 0.8**2)
        prediction = head.network(
            (x / scale)[None], torch.tensor([[SLOW * math.log(level) / 4]], dtype=torch.double), hidden[row : row + 1]
        )[0]
        return 0.64 / ((level - LOW) ** 2 + 0.64) * x + (level - LOW) * 0.8 / scale * prediction

    bound, total = 0.3 * math.sqrt(3), torch.zeros(()).double()
    for row in range(6):
        apart = answer(row, float(high[row])) - answer(row, float(low[row])).detach()
        expected = ((apart.square().sum() + bound**2).sqrt() - bound) / (high[row] - low[row])
        torch.testing.assert_close(found[row], expected)
        total = total + expected
    weight = head.network.output.weight
    torch.testing.assert_close(torch.autograd.grad(found.sum(), weight)[0], torch.autograd.grad(total, weight)[0])  # type: ignore[arg-type]


def test_the_untrained_loss_is_known_without_a_bend() -> None:
    """``f = c_skip x``: with ``c = 0`` the distance of neighbours is ``|(a' - a) x + (a' t' - a t) e|``; unit Gaussians in many values."""
    layout = Layout((2,), 4000)
    head = Consistency(huber=0.0).build(4, layout)
    torch.manual_seed(0)
    tokens, noise = torch.randn(2, 3, 4000)
    low, high = torch.tensor([0.002, 0.5, 10.0]), torch.tensor([0.1, 0.9, 30.0])
    found = head.errors(tokens, noise, low, high, lambda x, t, rows=None: head.network(x, t, torch.zeros(3, 4)))
    a, b = (1 / ((level - LOW) ** 2 + 1) for level in (low, high))
    expected = (4000 * ((b - a) ** 2 + (b * high - a * low) ** 2)).sqrt() / (high - low)
    torch.testing.assert_close(found.detach(), expected, rtol=0.06, atol=0)  # five deviations of a mean of 4000 squares, halved by the root


def test_the_grid_doubles_with_training() -> None:
    levels = Levels(first=10, last=1280, samples=8_000)  # 7 doublings, so 8 stages of 1,000 samples
    found = [levels.intervals(seen) for seen in (0, 999, 1_000, 2_500, 6_999, 7_000, 8_000, 10**12)]
    assert found == [10, 10, 20, 40, 640, 1280, 1280, 1280]
    assert [Levels(first=3, last=3).intervals(seen) for seen in (0, 10**9)] == [3, 3]
    assert [Levels(first=10, last=50, samples=30).intervals(seen) for seen in (0, 10, 20, 29, 30)] == [10, 20, 40, 40, 50]


@pytest.mark.parametrize("intervals", [1, 2, 10])
def test_levels_are_even_in_their_seventh_root(intervals: int) -> None:
    grid = Levels().grid(intervals)
    assert (float(grid[0]), float(grid[-1])) == (0.002, 80.0)
    roots = grid ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(intervals))


def test_levels_are_drawn_as_the_normal_says() -> None:
    levels = Levels(first=10, last=10)
    grid, seen = levels.grid(10), []
    standard = (grid.log().numpy() + 0.4) / 2
    expected = torch.from_numpy(stats.norm.cdf(standard)).diff()
    torch.testing.assert_close(levels.chances(grid), expected / expected.sum())

    class Spy(ConsistencyHead):
        def errors(self, targets, noise, low, high, predict, real=None):  # type: ignore[no-untyped-def]
            seen.append((low, high))
            return targets.sum(-1)

    torch.manual_seed(0)
    Spy(exact(1.0), LAYOUT, Consistency(levels=levels)).loss(torch.zeros(2_000, 4), torch.zeros(2_000, 3))
    ((low, high),) = seen
    index = torch.searchsorted(grid.float(), low)
    torch.testing.assert_close(high, grid.float()[index + 1])
    counts, wanted = torch.bincount(index, minlength=10).numpy(), (levels.chances(grid) * len(low)).numpy()
    assert min(wanted) > 5
    assert stats.chisquare(counts, wanted).pvalue > 1e-6


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_exact_answer_draws_the_distribution(steps: int) -> None:
    head = ConsistencyHead(exact(0.6), LAYOUT)
    found = drawn(head, steps=steps, hidden=torch.tensor([0.7, -1.0, 0.0, 0.0]))
    wanted = torch.tensor([0.7, -1.0, 0.0]) + 0.6 * torch.randn(1000, 3, generator=torch.Generator().manual_seed(1))
    assert_same_distribution(found, wanted)
    times = [math.exp(4 * time / SLOW) for (time,) in head.network.asked]  # type: ignore[union-attr]
    assert times == pytest.approx(Levels().grid(steps).flip(0)[:-1].tolist(), rel=1e-4)


def test_two_steps_are_the_formula() -> None:
    head = ConsistencyHead(exact(0.6), LAYOUT)
    rng = PerSampleRNG(3, range(4))
    first, second = rng.normal(1, 3), rng.normal(1, 3)
    middle = float(Levels().grid(2)[1])

    def f(x: Tensor, level: float) -> Tensor:
        return 0.7 + math.sqrt((0.36 + LOW**2) / (0.36 + level**2)) * (x - 0.7)

    expected = f(f(80 * first, 80.0) + math.sqrt(middle**2 - LOW**2) * second, middle)[:, 0]
    torch.testing.assert_close(drawn(head, steps=2, items=4, hidden=torch.full((4,), 0.7)), expected, rtol=1e-4, atol=1e-4)


def test_the_training_hook_reaches_the_head_and_losses_are_compared_on_the_finest_grid() -> None:
    grids = []

    class Spy(Levels):
        def grid(self, intervals: int) -> Tensor:
            grids.append(intervals)
            return super().grid(intervals)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.condition, self.head = None, ConsistencyHead(exact(1.0), LAYOUT, Consistency(levels=Spy(samples=8_000)))

        def loss(self, *_: object) -> Tensor:
            return self.head.loss(torch.zeros(1, 4), torch.zeros(1, 3)).mean()

    class Tokenizer(nn.Module):
        cached_layout = LAYOUT

        def sample_cached(self, tokens: Any, rng: PerSampleRNG) -> Any:
            return tokens

    model: Any = Model()
    unused: Any = None
    objective = GeneratorObjective(model, Tokenizer(), unused, unused, unused, unused)  # type: ignore[arg-type]
    batch: Any = SimpleNamespace(tokens=torch.zeros(1, 2, 3))
    for seen in (0, 2_500, 100_000):
        objective(batch, "model", seen, StepRNG(PerSampleRNG(0, [0]), torch.Generator()))
    assert grids == [10, 40, 1280]
    model.eval().head.on_train_step(0)
    model.loss(None, None, PerSampleRNG(0, [0]), "model")
    assert grids[-1] == 1280


def test_one_step_finds_both_points() -> None:
    torch.manual_seed(0)
    settings = Consistency(network=MLP(layers=1, width=32), diffusion_batch_mul=1, levels=Levels(last=40, samples=160 * 128))
    head = settings.build(4, Layout((1,)))
    before = gap(drawn(head, steps=1), both_points())
    train_on_two_points(head, 160)
    for steps in (1, 2):
        found = drawn(head, steps=steps)
        assert gap(found, both_points()).distance < 0.15 < before.distance
        assert float((found.abs() > 0.5).float().mean()) > 0.9
        assert 0.4 < float((found > 0).float().mean()) < 0.6


def test_grids_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="first, 20, must not be above last, 10"):
        Levels(first=20, last=10)
    with pytest.raises(ValidationError, match=r"the least noise level, 2\.0, must be below the greatest, 1\.0"):
        Levels(low=2.0, high=1.0)
