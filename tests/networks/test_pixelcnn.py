"""What a pixel sees, by gradient, for every pixel and colour; and sampling with the cache against the whole picture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jielong.core.tokens import Layout
from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.masked_convolution import HorizontalConvolution, VerticalConvolution, colour_mask
from jielong.networks.pixel_grid import PixelGrid
from jielong.networks.pixelcnn import PixelCNN, PixelCNNConfig

GRIDS = [PixelGrid(5, 4), PixelGrid(3, 4, 3)]


def net_of(grid: PixelGrid, *, layers: int = 3, condition_width: int | None = None, **sizes: int) -> PixelCNN:
    """A small network with no weight at zero, in double precision."""
    torch.manual_seed(0)
    config = PixelCNNConfig(layers=layers, width=4, features=6, **sizes)
    net = PixelCNN(config, grid=grid, condition_width=condition_width).double().eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


def run(net: nn.Module, inputs: Tensor, conditioning: Conditioning | None = None) -> Tensor:
    positions = inputs.shape[1]
    return net(BackboneInputs(inputs, torch.zeros(positions, 2, dtype=torch.long), torch.arange(positions), conditioning))


def condition_of(batch: int, width: int = 5) -> Conditioning:
    pooled = torch.randn(batch, width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return Conditioning(pooled[:, None], torch.ones(batch, 1, dtype=torch.bool), pooled)


def seen(net: nn.Module, positions: int, width: int = 4) -> Tensor:
    """``(N, N)`` bool: whether the hidden vector of a position (row) depends on the input of a position (column)."""
    inputs = torch.randn(1, positions, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    hidden = run(net, inputs)
    rows = [torch.autograd.grad(hidden[0, i].square().sum(), inputs, retain_graph=True)[0][0].abs().sum(-1) for i in range(positions)]
    return torch.stack(rows) > 0


@pytest.mark.parametrize("grid", GRIDS)
def test_a_position_sees_every_token_before_it_and_no_other(grid: PixelGrid) -> None:
    """Position ``i`` is handed token ``i - 1``, so it may see inputs up to its own; three layers reach all over so small a picture.

    The first has nothing to see: it is handed the start of the chain, which is what lies outside of the picture.
    """
    found = seen(net_of(grid, first_kernel=7), grid.positions)
    wanted = torch.ones_like(found).tril()
    wanted[0, 0] = False
    assert torch.equal(found, wanted)


def test_the_receptive_field_has_no_blind_spot() -> None:
    """A stack of square masked kernels would miss pixels to the upper right, inside its reach; two stacks see a full rectangle above.

    One strict layer of width 3 and two blocks of width 3 reach three rows up, three columns to either side there, and three to the left.
    """
    grid = PixelGrid(6, 9)
    found = seen(net_of(grid, layers=2, first_kernel=3), grid.positions)
    row, column = 5, 4
    # Input i + 1 is the pixel i; the last pixel has none.
    pixels = [*found[row * grid.columns + column][1:].tolist(), False]
    got = {(i // grid.columns, i % grid.columns) for i, reached in enumerate(pixels) if reached}
    wanted = {(r, c) for r in range(row - 3, row) for c in range(column - 3, column + 4)} | {(row, c) for c in range(column - 3, column)}
    # The horizontal stack carries what it saw to the right: rows above reach further to the left, as far as its own row does.
    assert wanted <= got
    assert all(r < row or c < column for r, c in got)
    assert all(c <= column + 3 for _, c in got)


def test_a_leak_would_be_found() -> None:
    """The same check fails when the first layer sees its own pixel."""
    grid = PixelGrid(3, 3)
    net = net_of(grid)
    net.first_horizontal = HorizontalConvolution(4, 6, 3).double()
    found = seen(net, grid.positions)
    assert bool(found.triu(1).any())


def test_colour_masks_are_the_papers() -> None:
    assert colour_mask(3, 3, 3, mask_b=False).tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert colour_mask(3, 6, 3, mask_b=True).tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    with pytest.raises(ValueError, match="7 channels cannot be shared by 3 colours"):
        colour_mask(6, 7, 3, mask_b=True)


@pytest.mark.parametrize("strict", [False, True])
def test_a_vertical_convolution_is_a_square_one_with_the_lower_rows_zeroed(strict: bool) -> None:
    torch.manual_seed(0)
    layer = VerticalConvolution(2, 3, 5, strict=strict)
    square = torch.zeros(3, 2, 5, 5)
    square[:, :, : layer.height] = layer.weight.data
    x = torch.randn(2, 2, 6, 7)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, square, layer.bias, padding=2))
    above = nn.functional.pad(x, (0, 0, layer.height, 0))
    for row in range(6):
        last = row if strict else row + 1
        torch.testing.assert_close(layer.row(above[:, :, last : last + layer.height]), layer(x)[:, :, row])


def test_decay_and_momentum_cannot_leak_through_a_mask() -> None:
    layer = HorizontalConvolution(3, 6, 1, colours=3, mask_b=False, parts=2)
    layer.weight.data.fill_(1.0)  # as an optimizer with momentum might leave it
    x = torch.randn(1, 3, 1, 4, requires_grad=True)
    layer(x)[0, 0, 0, 2].backward()  # the first colour of a part sees nothing of its own pixel
    assert x.grad is not None
    assert x.grad[0, :, 0].count_nonzero(0).tolist() == [0, 3, 0, 0]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("conditioned", [False, True])
def test_cached_equals_whole_for_one_position_at_a_time_and_for_several(grid: PixelGrid, conditioned: bool) -> None:
    net = net_of(grid, condition_width=5 if conditioned else None, first_kernel=5).float()
    inputs = torch.randn(2, grid.positions, 4, generator=torch.Generator().manual_seed(2))
    given = condition_of(2) if conditioned else None
    given = None if given is None else Conditioning(given.states.float(), given.mask, given.pooled.float())
    whole = run(net, inputs, given)
    for size in (1, 7):
        cache = net.new_cache(2, grid.positions)
        assert cache.nbytes == net.cache_bytes(2, grid.positions)
        parts = []
        for at in range(0, grid.positions, size):
            piece = inputs[:, at : at + size]
            where, blocks = torch.zeros(piece.shape[1], 2), torch.arange(at, at + piece.shape[1])
            first = None if at else given
            tried = net(BackboneInputs(torch.randn_like(piece), where, blocks, first), cache, commit=False)
            assert not torch.allclose(tried, whole[:, at : at + size]) or at + size <= 1
            parts.append(net(BackboneInputs(piece, where, blocks), cache))
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run(net, inputs[:, :6], given), whole[:, :6])


def test_rows_of_a_cache_go_on_by_themselves() -> None:
    grid = GRIDS[0]
    net = net_of(grid).float()
    inputs = torch.randn(3, grid.positions, 4)
    cache, half = net.new_cache(3, grid.positions), 9
    places, blocks = torch.zeros(grid.positions, 2), torch.arange(grid.positions)
    net(BackboneInputs(inputs[:, :half], places[:half], blocks[:half]), cache)
    rest = net(BackboneInputs(inputs[:2, half:], places[half:], blocks[half:]), cache.rows(slice(0, 2)))
    torch.testing.assert_close(rest, run(net, inputs)[:2, half:], rtol=1e-5, atol=1e-5)


def test_the_cache_does_not_grow_with_the_height() -> None:
    low, high = net_of(PixelGrid(4, 8)), net_of(PixelGrid(64, 8))
    assert low.cache_bytes(1, 32) == high.cache_bytes(1, 512)


def test_a_condition_changes_every_position_and_starts_without_a_say() -> None:
    grid = GRIDS[0]
    inputs = torch.randn(2, grid.positions, 4, dtype=torch.float64)
    inputs[1] = inputs[0]
    fresh = PixelCNN(PixelCNNConfig(layers=2, width=4), grid=grid, condition_width=5).double()
    hidden = run(fresh, inputs, condition_of(2))
    torch.testing.assert_close(hidden[0], hidden[1])
    moved = net_of(grid, condition_width=5)
    hidden = run(moved, inputs, condition_of(2)).detach()
    assert float((hidden[0] - hidden[1]).abs().amax(-1).min()) > 1e-6


def test_every_weight_is_trained() -> None:
    for grid in GRIDS:
        net = net_of(grid, condition_width=5)
        run(net, torch.randn(2, grid.positions, 4, dtype=torch.float64), condition_of(2)).square().sum().backward()
        assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in net.parameters())


def test_dropout_is_for_training_alone() -> None:
    net = net_of(GRIDS[0])
    for block in net.blocks:
        block.dropout.p = 0.5
    inputs = torch.randn(1, 20, 4, dtype=torch.float64)
    assert torch.equal(run(net, inputs), run(net, inputs))
    net.train()
    assert not torch.equal(run(net, inputs), run(net, inputs))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="choose backbone: transformer"):
        PixelGrid.of(Layout((4, 8, 8), vocabulary=4))
    with pytest.raises(ValueError, match="choose backbone: transformer"):
        PixelGrid.of(Layout((16,), vocabulary=4))
    with pytest.raises(ValueError, match="8 features cannot be shared by 3 colours"):
        PixelCNN(PixelCNNConfig(layers=1, width=8), grid=PixelGrid(4, 4, 3))
    with pytest.raises(ValueError, match="first_kernel must be odd, so that a pixel stands in its middle, not 4"):
        PixelCNNConfig(first_kernel=4)
    net, with_condition = net_of(GRIDS[0]), net_of(GRIDS[0], condition_width=5)
    inputs = torch.randn(1, 20, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"embeddings must be \(batch, positions, 4\), not \(1, 20, 5\)"):
        run(net, torch.randn(1, 20, 5))
    with pytest.raises(ValueError, match="the picture has 20 positions, but these are 21"):
        run(net, torch.randn(1, 21, 4))
    with pytest.raises(ValueError, match="takes no condition"):
        run(net, inputs, condition_of(1))
    with pytest.raises(ValueError, match="takes a condition, but none"):
        run(with_condition, inputs)
    with pytest.raises(ValueError, match="for a batch of 2, not 1"):
        net(BackboneInputs(inputs, torch.zeros(20, 2), torch.arange(20)), net.new_cache(2, 20))
    net.check_order(torch.arange(20), shifted=True)
    for blocks, shifted in ((torch.arange(20), False), (torch.zeros(20), True)):
        with pytest.raises(ValueError, match="a PixelCNN sees what is above and to the left, and so needs order: raster"):
            net.check_order(blocks, shifted)
