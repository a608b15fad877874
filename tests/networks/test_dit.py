"""The transformer inside joint heads: zero at first, blind to padding, and every token sees every other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jielong.config.registry import parse_part
from jielong.core.tokens import Layout
from jielong.networks.dit import DiT, DiTDenoiser

B, N, C, D = 3, 5, 2, 6
SMALL = DiT(layers=2, width=16, heads=2)
LINE = DiT(layers=2, width=16, heads=2, kernel=3, ratio=2.0)
EACH = pytest.mark.parametrize("settings", [SMALL, LINE], ids=["plain", "kernel"])


def built(settings: DiT, axes: int = 1, times: int = 1, outputs: int = C, noisy: bool = True) -> DiTDenoiser:
    torch.manual_seed(0)
    network = settings.build(inputs=C, outputs=outputs, hidden=D, times=times, axes=axes).double()
    if noisy:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def given(n: int = N, items: int = B) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(items, n, C).double(), torch.rand(items, 1).double(), torch.randn(items, n, D).double()


def line(n: int = N) -> Tensor:
    return Layout((n,), C).coordinates()


def test_settings_survive_their_own_dump() -> None:
    assert parse_part("network", LINE.model_dump(mode="json")) == LINE


@EACH
@pytest.mark.parametrize("times", [1, 2])
def test_an_untrained_network_gives_zero(settings: DiT, times: int) -> None:
    x, _, hidden = given()
    network = built(settings, times=times, outputs=2 * C, noisy=False)
    out = network.predict(x, torch.rand(B, times).double(), network.prepare(hidden, line()))
    assert torch.equal(out, torch.zeros(B, N, 2 * C).double())


@EACH
def test_every_token_matters_to_every_other_and_items_do_not_mix(settings: DiT) -> None:
    network = built(settings)
    x, times, hidden = given()
    before = network.predict(x, times, network.prepare(hidden, line()))
    for changed in (x[0, 4], times[0], hidden[0, 4]):
        kept = changed.clone()
        changed += 0.1
        after = network.predict(x, times, network.prepare(hidden, line()))
        assert float((after[0] - before[0]).abs().amin(0).min().detach()) > 1e-9
        torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=0)
        changed.copy_(kept)


@EACH
def test_padding_is_never_seen(settings: DiT) -> None:
    network = built(settings)
    x, times, hidden = given()
    alone = network.predict(x[:, :3], times, network.prepare(hidden[:, :3], line(3)))
    real = (torch.arange(N) < 3).expand(B, N)
    for filler in (0.0, 7.0):
        x[:, 3:] = hidden[:, 3:] = filler
        padded = network.predict(x, times, network.prepare(hidden, line(), real))
        torch.testing.assert_close(padded[:, :3], alone)
    all_padding = network.predict(x, times, network.prepare(hidden, line(), torch.zeros_like(real)))
    assert bool(all_padding.isfinite().all())


@EACH
def test_network_uses_positions_of_tokens(settings: DiT) -> None:
    """Two equal tokens at different places differ only by their distances to others."""
    network = built(settings)
    x, times, hidden = given()
    swapped = [1, 0, 2, 3, 4]
    here = network.predict(x, times, network.prepare(hidden, line()))
    permuted = network.predict(x[:, swapped], times, network.prepare(hidden[:, swapped], line()))
    assert float((permuted[:, swapped] - here).abs().max().detach()) > 1e-3
    if settings.kernel == 1:  # and if coordinates move along, nothing has changed
        moved = line()[swapped]
        torch.testing.assert_close(network.predict(x[:, swapped], times, network.prepare(hidden[:, swapped], moved))[:, swapped], here)


def test_neighbours_are_a_convolution() -> None:
    block = built(LINE).blocks[0]
    x = torch.randn(2, N, 16).double()
    weight = block.up.weight.view(-1, 3, 16).permute(0, 2, 1)  # type: ignore[union-attr, operator]
    expected = torch.conv1d(x.mT, weight, block.up.bias, padding=1).mT  # type: ignore[arg-type]
    torch.testing.assert_close(block.up(block._windows(x, None)), expected)  # type: ignore[operator]


def test_the_forward_derivative_is_that_of_finite_differences() -> None:
    network = built(SMALL, times=2, axes=2)
    x, _, hidden = given(6)
    prepared = network.prepare(hidden, Layout((2, 3), C).coordinates())
    times, along = torch.rand(B, 2).double(), torch.randn_like(x)

    def ask(x: Tensor, times: Tensor) -> Tensor:
        return network.predict(x, 0.001 * times, prepared)

    _, slope = torch.func.jvp(ask, (x, times), (along, torch.ones_like(times)))
    step = 1e-6
    ends = [ask(x + sign * step * along, times + sign * step) for sign in (1, -1)]
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-6)


def test_scenes_repeat_and_are_picked_from() -> None:
    network = built(SMALL)
    x, times, hidden = given()
    prepared = network.prepare(hidden, line(), torch.arange(N) < torch.tensor([[5], [2], [4]]))
    whole = network.predict(x, times, prepared)
    twice = network.predict(x.repeat(2, 1, 1), times.repeat(2, 1), prepared.repeat(2))
    torch.testing.assert_close(twice, whole.repeat(2, 1, 1))
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(network.predict(x[rows], times[rows], prepared.rows(rows)), whole[rows])


@pytest.mark.parametrize(
    ("settings", "axes", "says"),
    [({"width": 10, "heads": 2}, 1, "even multiple"), ({"kernel": 2}, 1, "must be odd"), ({"kernel": 3}, 2, "along one axis")],
)
def test_what_does_not_fit_is_refused(settings: dict[str, int], axes: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DiT(**settings).build(inputs=C, outputs=C, hidden=D, axes=axes)  # type: ignore[arg-type]
