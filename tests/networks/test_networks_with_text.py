"""Joint networks that read the states of a condition: each state matters, padding does not, and forward derivatives are exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.embeddings import PatchEmbed
from torch import Tensor

from jielong.config.registry import parse_part
from jielong.core.tokens import Layout
from jielong.networks.conditioning import Conditioning
from jielong.networks.dit import DiT
from jielong.networks.joint import BlockSettings, sincos
from jielong.networks.mmdit import MMDiT

B, C, D, TEXT, LENGTH = 3, 2, 6, 5, 4
SIZES: dict[str, int] = {"layers": 2, "width": 16, "heads": 2}
KINDS = {
    "cross": DiT(condition="cross", **SIZES),  # type: ignore[arg-type]
    "mmdit": MMDiT(**SIZES),  # type: ignore[arg-type]
    "mmdit-sincos": MMDiT(qk_norm=False, positions="sincos", **SIZES),  # type: ignore[arg-type]
}
EACH = pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
COORDS = Layout((2, 3), C).coordinates()


def built(settings: BlockSettings, times: int = 1, noisy: bool = True) -> Any:
    torch.manual_seed(0)
    network = settings.build(inputs=C, outputs=C, hidden=D, times=times, axes=2, condition=TEXT).double()
    for parameter in network.parameters() if noisy else ():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def given(n: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(B, n, C).double(), torch.rand(B, 1).double(), torch.randn(B, n, D).double(), torch.randn(B, LENGTH, TEXT).double()


def condition(states: Tensor, mask: Tensor | None = None) -> Conditioning:
    mask = torch.ones(states.shape[:2], dtype=torch.bool) if mask is None else mask
    return Conditioning(states, mask, states[:, 0])


@EACH
def test_settings_survive_their_own_dump(settings: BlockSettings) -> None:
    assert parse_part("network", settings.model_dump(mode="json")) == settings


@EACH
def test_an_untrained_network_gives_zero(settings: BlockSettings) -> None:
    x, times, hidden, states = given()
    network = built(settings, noisy=False)
    assert network.reads_condition
    assert not network.predict(x, times, network.prepare(hidden, COORDS, None, condition(states))).any()


@EACH
def test_every_state_matters_to_every_token_and_items_do_not_mix(settings: BlockSettings) -> None:
    network, (x, times, hidden, states) = built(settings), given()
    before = network.predict(x, times, network.prepare(hidden, COORDS, None, condition(states)))
    for place in range(LENGTH):
        changed = states.clone()
        changed[0, place] += 0.1
        after = network.predict(x, times, network.prepare(hidden, COORDS, None, condition(changed)))
        assert float((after[0] - before[0]).abs().amin(-1).min().detach()) > 1e-9
        torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=0)


@EACH
def test_padding_of_the_text_is_never_seen(settings: BlockSettings) -> None:
    network, (x, times, hidden, states) = built(settings), given()
    alone = network.predict(x, times, network.prepare(hidden, COORDS, None, condition(states[:, :2])))
    for filler in (0.0, 7.0):
        states[:, 2:] = filler
        padded = network.prepare(hidden, COORDS, None, condition(states, torch.arange(LENGTH).expand(B, -1) < 2))
        torch.testing.assert_close(network.predict(x, times, padded), alone)


@EACH
def test_padding_of_the_block_is_never_seen(settings: BlockSettings) -> None:
    network, (x, times, hidden, states) = built(settings), given()
    alone = network.predict(x[:, :3], times, network.prepare(hidden[:, :3], COORDS[:3], None, condition(states)))
    real = (torch.arange(6) < 3).expand(B, -1)
    for filler in (0.0, 7.0):
        x[:, 3:] = hidden[:, 3:] = filler
        padded = network.predict(x, times, network.prepare(hidden, COORDS, real, condition(states)))
        torch.testing.assert_close(padded[:, :3], alone)


@EACH
@pytest.mark.parametrize("gradients", [True, False])
def test_the_forward_derivative_is_that_of_finite_differences(settings: BlockSettings, gradients: bool) -> None:
    network, (x, _, hidden, states) = built(settings, times=2), given()
    with torch.set_grad_enabled(gradients):
        prepared = network.prepare(hidden, COORDS, None, condition(states, torch.arange(LENGTH).expand(B, -1) < 3))
        times, along = torch.rand(B, 2).double(), torch.randn_like(x)

        def ask(x: Tensor, times: Tensor) -> Tensor:
            found: Tensor = network.predict(x, 0.001 * times, prepared)
            return found

        _, slope = torch.func.jvp(ask, (x, times), (along, torch.ones_like(times)))
        step = 1e-6
        ends = [ask(x + sign * step * along, times + sign * step) for sign in (1, -1)]
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-5)


@EACH
def test_items_repeat_and_are_picked_from(settings: BlockSettings) -> None:
    network, (x, times, hidden, states) = built(settings), given()
    prepared = network.prepare(hidden, COORDS, None, condition(states, torch.arange(LENGTH) < torch.tensor([[4], [2], [3]])))
    whole = network.predict(x, times, prepared)
    twice = network.predict(x.repeat(2, 1, 1), times.repeat(2, 1), prepared.repeat(2))
    torch.testing.assert_close(twice, whole.repeat(2, 1, 1))
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(network.predict(x[rows], times[rows], prepared.rows(rows)), whole[rows])


@EACH
def test_a_condition_is_needed_and_named(settings: BlockSettings) -> None:
    with pytest.raises(ValueError, match=rf"network.{settings.name}: .*add `condition`"):
        settings.build(inputs=C, outputs=C, hidden=D)
    with pytest.raises(ValueError, match=r"give HeadContext\(condition"):
        built(settings).prepare(given()[2], COORDS)


def test_a_pooled_network_ignores_states_and_sincos_moves_with_coordinates() -> None:
    x, times, hidden, states = given()
    network = built(DiT(positions="sincos", **SIZES))  # type: ignore[arg-type]
    here = network.predict(x, times, network.prepare(hidden, COORDS))
    assert torch.equal(network.predict(x, times, network.prepare(hidden, COORDS, None, condition(states))), here)
    swapped = [1, 0, 2, 3, 4, 5]
    moved = network.predict(x[:, swapped], times, network.prepare(hidden[:, swapped], COORDS[swapped]))
    torch.testing.assert_close(moved[:, swapped], here)
    assert float((network.predict(x[:, swapped], times, network.prepare(hidden[:, swapped], COORDS)) - moved).abs().max().detach()) > 1e-3


def test_sines_and_cosines_are_those_of_dit() -> None:
    table = PatchEmbed(height=3, width=3, patch_size=1, in_channels=1, embed_dim=16).pos_embed[0]
    torch.testing.assert_close(sincos(COORDS, 16), table[:6], rtol=1e-5, atol=1e-6)
