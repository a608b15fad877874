"""What rotates queries and keys of a transformer: nothing, a position, or the token that it reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jielong.config.sampling import Lazy
from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.eligibility import fused_inference
from jielong.networks.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from jielong.networks.transformer import Transformer, TransformerConfig

GRID = torch.cartesian_prod(torch.arange(3), torch.arange(4))
N, WIDTH, STATES, B = len(GRID), 16, 6, 2
RASTER = torch.arange(N)


def make(condition: str | None = None, **changes: object) -> Transformer:
    """A small network with all weights away from their start, so that nothing hides behind a zero."""
    settings = {"layers": 2, "width": WIDTH, "heads": 2, "condition": condition or "prefix"} | changes
    net = Transformer(TransformerConfig.model_validate(settings), axes=2, condition_width=STATES if condition else None).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return net


def inputs(seed: int = 2) -> Tensor:
    return torch.randn(B, N, WIDTH, generator=torch.Generator().manual_seed(seed))


def condition() -> Conditioning:
    generator = torch.Generator().manual_seed(3)
    mask = torch.tensor([[True, True, True], [False, True, True]])
    return Conditioning(torch.randn(B, 3, STATES, generator=generator), mask, torch.randn(B, STATES, generator=generator))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
def test_without_rotation_cached_equals_uncached(path: str | None, size: int, fused: bool) -> None:
    net, given, x, blocks = make(path, rotary=False), condition() if path else None, inputs(), RASTER // size
    whole = net(BackboneInputs(x, GRID, blocks, given))
    cache = net.new_cache(B, N, 3)
    with fused_inference(fused):
        spans = [slice(start, start + size) for start in range(0, N, size)]
        steps = [net(BackboneInputs(x[:, at], GRID[at], blocks[at], None if at.start else given), cache) for at in spans]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=2e-5)


def test_without_rotation_places_do_not_matter() -> None:
    """One block is a set of positions: in another order they give the same vectors in that order."""
    net, x, one = make(rotary=False), inputs(), torch.zeros(N, dtype=torch.long)
    hidden, order = net(BackboneInputs(x, GRID, one)), torch.randperm(N, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(BackboneInputs(x[:, order], GRID, one)), hidden[:, order], rtol=1e-4, atol=1e-5)
    rotated = make()
    assert not torch.allclose(rotated(BackboneInputs(x[:, order], GRID, one)), rotated(BackboneInputs(x, GRID, one))[:, order], atol=1e-3)


def test_a_narrow_head_needs_no_channels_for_axes_without_rotation() -> None:
    with pytest.raises(ValueError, match="cannot be rotated over 2 axes"):
        make(heads=8)
    assert make(heads=8, rotary=False)(BackboneInputs(inputs(), GRID, RASTER)).shape == (B, N, WIDTH)


def test_lazy_steps_of_everything_equal_a_pass_without_rotation() -> None:
    net, x, one = make(rotary=False), inputs(), torch.zeros(N, dtype=torch.long)
    cache = net.new_lazy_cache(Lazy(refresh=8, share=1.0, layers=1), B, N)
    for step in range(2):
        cache.next(step == 0, torch.tensor([[step], [step + 1]]))
        hidden = net(BackboneInputs(x, GRID, one), cache)
    torch.testing.assert_close(hidden, net(BackboneInputs(x, GRID, one)), rtol=1e-4, atol=1e-5)


def test_mar_without_rotation_has_no_tables() -> None:
    net = MaskedAutoencoder(MaskedAutoencoderConfig(width=WIDTH, heads=8, rotary=False), extents=(3, 4))
    assert net.encoder.rotary is None
    assert net.decoder.rotary is None
