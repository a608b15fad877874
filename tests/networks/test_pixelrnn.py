"""PixelRNN: what a pixel sees, exactly; the batched recurrences against a loop over pixels; the cache against no cache."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.gated import unit_rms
from jielong.networks.pixel_grid import PixelGrid
from jielong.networks.pixelrnn import Kind, PixelRNN, PixelRNNConfig
from jielong.networks.recurrence import Direction, GroupedLinear, diagonals

KINDS: tuple[Kind, ...] = ("row", "diagonal")
ROWS, COLUMNS = 6, 9


def network(kind: Kind, rows: int = 4, columns: int = 5, colours: int = 1, condition_width: int | None = None, **settings: int) -> PixelRNN:
    """A small network whose every number, biases and first states too, is drawn at random."""
    torch.manual_seed(1)
    config = PixelRNNConfig(kind=kind, **{"layers": 2, "width": 4, "hidden": 6, **settings})
    net = PixelRNN(config, grid=PixelGrid(rows, columns, colours), condition_width=condition_width)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape) / math.sqrt(max(parameter.shape[-1], 4)))
    return net


def run(net: PixelRNN, inputs: Tensor, given: Conditioning | None = None) -> Tensor:
    count = inputs.shape[1]
    return net(BackboneInputs(inputs, torch.zeros(count, 2), torch.arange(count), given))


def condition(batch: int, width: int) -> Conditioning:
    pooled = torch.randn(batch, width)
    return Conditioning(pooled[:, None], torch.ones(batch, 1, dtype=torch.bool), pooled)


# --- what is seen -------------------------------------------------------------------------------------------------------------------


def seen(net: PixelRNN) -> Tensor:
    """Which values each hidden vector depends on, by gradient: ``(N, N)`` bool, hidden vector by value."""
    with torch.no_grad():  # open the last two rectifiers: closed ones, of which a small network has many, hide what they would see
        net.stack[-1].out.bias += 50
        net.first.bias += 500
    count = net.grid.positions
    inputs = torch.randn(1, count, net.width, requires_grad=True)
    hidden = run(net, inputs)[0]
    found = []
    for position in range(count):
        # Squares, so that no gradient cancels.
        (gradient,) = torch.autograd.grad(hidden[position].square().sum(), inputs, retain_graph=True)
        # A value stands at the input after it; the last one is never handed over. The first input begins the chain.
        found.append(torch.cat([gradient[0, 1:], torch.zeros(1, net.width)]).ne(0).any(-1))
    return torch.stack(found)


@pytest.mark.parametrize(("layers", "kernel"), [(1, 7), (2, 3)])
def test_a_diagonal_bilstm_sees_exactly_what_is_above_and_to_the_left(layers: int, kernel: int) -> None:
    net = network("diagonal", ROWS, COLUMNS, layers=layers, kernel=kernel)
    assert torch.equal(seen(net), torch.ones(ROWS * COLUMNS, ROWS * COLUMNS).tril(-1).bool())


@pytest.mark.parametrize("layers", [1, 3])
def test_a_row_lstm_sees_exactly_its_triangle(layers: int) -> None:
    """One column more on either side a row up (state to state), and to the left one more a layer (input to state)."""
    net = network("row", ROWS, COLUMNS, layers=layers, kernel=3)
    place = torch.tensor([(row, column) for row in range(ROWS) for column in range(COLUMNS)])
    up = place[:, None, 0] - place[None, :, 0]
    across = place[None, :, 1] - place[:, None, 1]
    furthest = torch.where(up == 0, -1, up)  # the convolution reaches one to the right a row up, and the states as far
    expected = (up >= 0) & (across <= furthest) & (across >= -up - layers - 1)
    assert torch.equal(seen(net), expected)
    assert not expected[COLUMNS, COLUMNS - 1]  # the end of the row above: the map is large enough for the hole to show


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colours", [2, 3])
def test_no_colour_of_any_pixel_sees_itself_or_what_follows(kind: Kind, colours: int) -> None:
    net = network(kind, 3, 4, colours)
    found = seen(net)
    count = net.grid.positions
    assert not found.triu().any()
    if kind == "diagonal":
        assert torch.equal(found, torch.ones(count, count).tril(-1).bool())
    # A colour sees all earlier colours of its pixel.
    for pixel in range(0, count, colours):
        same_pixel = found[pixel : pixel + colours, pixel : pixel + colours]
        assert torch.equal(same_pixel, torch.ones(colours, colours).tril(-1).bool())


@pytest.mark.parametrize("kind", KINDS)
def test_mask_b_in_the_first_layer_would_leak(kind: Kind) -> None:
    """The test above can fail."""
    net = network(kind, 3, 4, 2)
    net.input.beside.mask.fill_(1)
    assert seen(net).diagonal()[:-1].all()


# --- the batched recurrences against a loop over pixels ---------------------------------------------------------------------------


def cell_of(scan: Direction, gates: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 3, one colour after the other."""
    states, cells = [], []
    for colour, group in enumerate(gates.chunk(scan.groups)):
        output, forget, enter, content = group.chunk(4)
        old = before.chunk(scan.groups)[colour]
        cells.append(forget.sigmoid() * old + enter.sigmoid() * content.tanh())
        states.append(output.sigmoid() * cells[-1].tanh())
    return torch.cat(states), torch.cat(cells)


def row_states(scan: Direction, x: Tensor, shift: Tensor) -> Tensor:
    rows, columns, features = x.shape
    state, cell = {}, {}
    for r in range(rows):
        for c in range(columns):
            left = x[r, c - 1] if c else torch.zeros(features)
            gates = scan.inputs(torch.cat([left, x[r, c]])) + shift
            for tap in range(3):
                if 0 <= c + tap - 1 < columns:
                    above = state[r - 1, c + tap - 1] if r else scan.first[0]
                    gates = gates + scan.state.weight[:, tap * scan.hidden : (tap + 1) * scan.hidden] @ above
            state[r, c], cell[r, c] = cell_of(scan, gates, cell[r - 1, c] if r else scan.first[1])
    return torch.stack([torch.stack([state[r, c] for c in range(columns)]) for r in range(rows)])


def diagonal_states(scan: Direction, x: Tensor, shift: Tensor) -> Tensor:
    rows, columns, _ = x.shape
    state, cell = {}, {}
    for r in range(rows):
        for c in range(columns):
            beside, above = state.get((r, c - 1), scan.first[0]), state.get((r - 1, c), scan.first[0])
            gates = scan.inputs(x[r, c]) + shift + scan.state(torch.cat([beside, above]))
            state[r, c], cell[r, c] = cell_of(scan, gates, cell.get((r, c - 1), scan.first[1]))
    return torch.stack([torch.stack([state[r, c] for c in range(columns)]) for r in range(rows)])


def reference(net: PixelRNN, inputs: Tensor, pooled: Tensor | None) -> Tensor:
    """One picture ``(N, D)``, pixel by pixel, from the paper's equations."""
    rows, columns, colours = net.grid.rows, net.grid.columns, net.grid.colours
    reach, margin = net.input.reach, net.margin
    values = torch.zeros(rows * columns * colours, net.width)
    values[:-1] = unit_rms(inputs[1:] - inputs[0])
    pixels = values.view(rows, columns, colours, net.width)
    x = torch.zeros(rows, columns + margin, net.features)
    above, beside = net.input.above.weight, net.input.beside.weight
    share = net.features // colours
    for r in range(rows):
        for c in range(columns + margin):
            for channel in range(net.features):
                total = net.input.above.bias[channel] + net.input.beside.bias[channel]
                for down in range(-reach, 1):
                    for right in range(-reach, reach + 1):
                        if not (r + down >= 0 and 0 <= c + right < columns) or (down == 0 and right > 0):
                            continue
                        for colour in range(colours):
                            if (down, right) == (0, 0) and colour >= channel // share:
                                continue
                            weight = above[channel, :, down + reach] if down else beside[channel, :, 0]
                            kernel = weight[colour * net.width : (colour + 1) * net.width, right + reach]
                            total = total + kernel @ pixels[r + down, c + right, colour]
                x[r, c, channel] = total
    for layer in net.stack:
        both = layer.states.both
        shifts = [scan.condition(pooled) if scan.condition is not None else torch.zeros(()) for scan in both]
        if net.kind == "row":
            states = row_states(both[0], x, shifts[0])
        else:
            states = diagonal_states(both[0], x, shifts[0])
            from_right = diagonal_states(both[1], x.flip(1), shifts[1]).flip(1)
            states[1:] += from_right[:-1]
        x = x + layer.out(states)
    hidden = net.second(net.first(x[:, :columns].relu()).relu())
    return hidden.reshape(-1, net.width)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colours", [1, 3])
@torch.no_grad()
def test_equals_a_loop_over_pixels(kind: Kind, colours: int) -> None:
    net = network(kind, 3, 5, colours, kernel=3, condition_width=3)
    inputs, given = torch.randn(2, net.grid.positions, net.width), condition(2, 3)
    expected = torch.stack([reference(net, item, unit_rms(pooled)) for item, pooled in zip(inputs, given.pooled, strict=True)])
    torch.testing.assert_close(run(net, inputs, given), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 5), (5, 3)])
def test_diagonals_hold_every_pixel_once(shape: tuple[int, int]) -> None:
    rows, columns = shape
    places, back, sizes = diagonals(rows, columns)
    assert sum(sizes) == rows * columns
    for way, flip in enumerate((False, True)):
        assert torch.equal(places[way][back[way]], torch.arange(rows * columns))
        numbers = [int(pixel) // columns + (columns - 1 - int(pixel) % columns if flip else int(pixel) % columns) for pixel in places[way]]
        assert numbers == [number for number, size in enumerate(sizes) for _ in range(size)]


def test_a_grouped_map_reads_all_before_and_its_own_colour() -> None:
    layer = GroupedLinear(4, 2, 2, before=1)
    assert torch.equal(layer.masked().ne(0), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool())


# --- one value at a time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("colours", "kernel"), [(1, 7), (3, 3), (2, 5)])
@torch.no_grad()
def test_cached_equals_uncached(kind: Kind, colours: int, kernel: int) -> None:
    net = network(kind, 4, 5, colours, kernel=kernel, condition_width=3)
    count = net.grid.positions
    inputs, given = torch.randn(2, count, net.width), condition(2, 3)
    whole = run(net, inputs, given)
    cache = net.new_cache(2, count)
    steps = []
    for start, stop in ((0, 1), (1, 8), *((i, i + 1) for i in range(8, count))):  # some at once, then one by one
        where, blocks = torch.zeros(stop - start, 2), torch.arange(start, stop)
        steps.append(net(BackboneInputs(inputs[:, start:stop], where, blocks, given if start == 0 else None), cache))
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-4, atol=1e-5)
    # Without a cache the first positions alone give the same as among all.
    torch.testing.assert_close(run(net, inputs[:, :8], given), whole[:, :8], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_cache_of_some_rows_goes_on_alone(kind: Kind) -> None:
    net = network(kind, condition_width=3)
    inputs, given = torch.randn(4, net.grid.positions, net.width), condition(4, 3)
    cache = net.new_cache(4, net.grid.positions)
    net(BackboneInputs(inputs[:, :8], torch.zeros(8, 2), torch.arange(8), given), cache)
    part = cache.rows(slice(1, 3))
    rest = net(BackboneInputs(inputs[1:3, 8:], torch.zeros(12, 2), torch.arange(8, 20)), part)
    torch.testing.assert_close(rest, run(net, inputs, given)[1:3, 8:], rtol=1e-4, atol=1e-5)
    assert (part.length, part.batch, cache.length) == (20, 2, 8)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_whole_picture_drawn_with_the_cache_costs_no_more_than_one_pass(kind: Kind) -> None:
    net = network(kind, 5, 6, 3, width=8, hidden=12)
    count = net.grid.positions
    inputs, cache = torch.randn(1, count, net.width), net.new_cache(1, count)
    with FlopCounterMode(display=False) as whole:
        run(net, inputs)
    spent = []
    for position in range(count):
        with FlopCounterMode(display=False) as step:
            net(BackboneInputs(inputs[:, position : position + 1], torch.zeros(1, 2), torch.tensor([position])), cache)
        spent.append(step.get_total_flops())
    assert sum(spent) <= 1.01 * whole.get_total_flops()
    # The same at every row: a picture twice as high costs twice as much, where recomputing would cost four times as much.
    row = net.grid.row
    assert len({tuple(spent[start : start + row]) for start in range(row, count, row)}) == 1


def test_the_cache_does_not_grow_with_the_height() -> None:
    small, tall = network("diagonal", 4, 5), network("diagonal", 400, 5)
    assert small.cache_bytes(3, 20) == tall.cache_bytes(3, 2000) == small.new_cache(3, 20).nbytes


# --- refusals -----------------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 3"):
        network("row", colours=3, hidden=4)
    with pytest.raises(ValueError, match="must be odd"):
        network("row", kernel=4)
    net = network("row")
    with pytest.raises(ValueError, match="batch, positions, 4"):
        run(net, torch.zeros(1, 20, 5))
    with pytest.raises(ValueError, match="takes no condition"):
        run(net, torch.zeros(1, 20, 4), condition(1, 3))
    with pytest.raises(ValueError, match="20 positions"):
        run(net, torch.zeros(1, 21, 4))
    with pytest.raises(ValueError, match="commits"):
        net(BackboneInputs(torch.zeros(1, 1, 4), torch.zeros(1, 2), torch.arange(1)), net.new_cache(1, 20), commit=False)
    with pytest.raises(ValueError, match="batch of 2"):
        net(BackboneInputs(torch.zeros(1, 1, 4), torch.zeros(1, 2), torch.arange(1)), net.new_cache(2, 20))
    conditioned = network("row", condition_width=3)
    with pytest.raises(ValueError, match="none was given"):
        run(conditioned, torch.zeros(1, 20, 4))
    with pytest.raises(ValueError, match="raster"):
        net.check_order(torch.zeros(20), shifted=True)
