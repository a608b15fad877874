"""Lazy steps of a stack of layers against the same layers run whole, and which positions they choose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jielong.backbones.transformer import Transformer as Settings
from jielong.config.sampling import Lazy
from jielong.core.tokens import Layout
from jielong.networks.backbone import BackboneInputs
from jielong.networks.transformer import Transformer

LAYOUT = Layout((4, 4), channels=2)
N, WIDTH = LAYOUT.positions, 16
WHERE, BLOCKS = LAYOUT.coordinates(), torch.zeros(N, dtype=torch.long)


def make() -> Transformer:
    torch.manual_seed(0)
    model = Settings(layers=4, width=WIDTH, heads=2).build(LAYOUT, None)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model.eval()


def states(seed: int) -> Tensor:
    return torch.randn(2, N, WIDTH, generator=torch.Generator().manual_seed(seed))


WANTED = torch.tensor([[3, 9], [0, 15]])


def test_a_fresh_call_is_the_network_itself() -> None:
    model, x = make(), states(1)
    cache = model.new_lazy_cache(Lazy(), 2, N)
    cache.next(True, WANTED)
    with torch.no_grad():
        torch.testing.assert_close(
            model(BackboneInputs(x, WHERE, BLOCKS), cache), model(BackboneInputs(x, WHERE, BLOCKS)), atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("layers", [1, 3, 4, 9])
def test_with_every_position_a_lazy_call_is_the_network_itself(layers: int) -> None:
    model = make()
    cache = model.new_lazy_cache(Lazy(share=1.0, layers=layers), 2, N)
    with torch.no_grad():
        for seed in (1, 2):
            cache.next(seed == 1, WANTED)
            drawn = model(BackboneInputs(states(seed), WHERE, BLOCKS), cache)
        torch.testing.assert_close(drawn, model(BackboneInputs(states(2), WHERE, BLOCKS)), atol=1e-6, rtol=1e-5)


def test_unchanged_inputs_lose_nothing_by_laziness() -> None:
    """Where inputs are as they were, what is remembered is what would be computed, whichever positions are chosen."""
    model, x = make(), states(1)
    cache = model.new_lazy_cache(Lazy(share=0.1, layers=1), 2, N)
    with torch.no_grad():
        for fresh in (True, False, False):
            cache.next(fresh, WANTED)
            drawn = model(BackboneInputs(x, WHERE, BLOCKS), cache)
        torch.testing.assert_close(drawn, model(BackboneInputs(x, WHERE, BLOCKS)), atol=1e-6, rtol=1e-5)


def test_those_that_changed_most_and_those_that_are_wanted_go_through() -> None:
    """Inputs change at two places: with room for two beside the wanted, exactly these four change in what comes out."""
    model, x = make(), states(1)
    for block in model.blocks:
        block.attention.out.weight.data.zero_()  # so that a change stays where it is
    lazy = Lazy(share=2 / (N - 2), layers=1)
    cache = model.new_lazy_cache(lazy, 2, N)
    changed, faintly = [5, 12], [1, 2, 7]
    with torch.no_grad():
        cache.next(True, WANTED)
        before = model(BackboneInputs(x, WHERE, BLOCKS), cache).clone()
        other = x.clone()
        other[:, changed] = -other[:, changed]
        other[:, faintly] += 1e-3 * torch.randn(2, 3, WIDTH)
        cache.revealed = cache.wanted = None
        cache.next(False, WANTED)
        after = model(BackboneInputs(other, WHERE, BLOCKS), cache)
        truth = model(BackboneInputs(other, WHERE, BLOCKS))
    moved = (after != before).any(-1)
    assert moved[:, changed].all()
    assert not moved[:, faintly].any(), "what hardly changed stays as it was"
    torch.testing.assert_close(after[:, changed], truth[:, changed], atol=1e-6, rtol=1e-5)
    assert cache.forced(N)[0].nonzero().flatten().tolist() == [3, 9]


def test_half_of_a_cache_works_in_the_same_memory() -> None:
    model, x = make(), states(1)
    cache = model.new_lazy_cache(Lazy(share=1.0), 2, N)
    with torch.no_grad():
        cache.next(True, WANTED)
        model(BackboneInputs(x, WHERE, BLOCKS), cache)
        cache.next(False, WANTED)
        half = cache.rows(slice(0, 1))
        drawn = model(BackboneInputs(states(2)[:1], WHERE, BLOCKS), half)
        torch.testing.assert_close(drawn, model(BackboneInputs(states(2)[:1], WHERE, BLOCKS)), atol=1e-6, rtol=1e-5)
    assert cache.stack.hidden.data_ptr() == half.stack.hidden.data_ptr()  # type: ignore[attr-defined]


def test_backbones_without_lazy_steps_say_so() -> None:
    from jielong.backbones.pixelcnn import PixelCNN

    network = PixelCNN(layers=1, width=4).build(Layout((4, 4), vocabulary=3), None)
    with pytest.raises(ValueError, match="lazy steps are for the backbones transformer and mar"):
        network.new_lazy_cache(Lazy(), 1, 16)
