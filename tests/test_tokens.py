from __future__ import annotations

import itertools
import json

import pytest
import torch

from jielong.core.tokens import Layout, Tokens


@pytest.mark.parametrize("grid", [(7,), (3, 5), (2, 3, 4)])
def test_coordinates_are_the_raster_order_of_the_grid(grid: tuple[int, ...]) -> None:
    layout = Layout(grid)
    expected = list(itertools.product(*(range(size) for size in grid)))
    assert layout.coordinates().tolist() == [list(place) for place in expected]
    assert layout.positions == len(expected)


def test_bits_are_positions_times_codebooks_times_log_of_the_vocabulary() -> None:
    assert Layout((8, 8), channels=1, vocabulary=1024).bits == 640
    assert Layout((75,), channels=8, vocabulary=1024).bits == 6000  # EnCodec: a second at 6 kbit/s
    assert Layout((8, 8), channels=16).bits is None
    assert not Layout((8, 8), channels=16).discrete


def test_tokens_of_another_shape_than_their_layout_are_refused() -> None:
    layout = Layout((2, 3), channels=2, vocabulary=9)
    assert len(Tokens(torch.zeros(4, 6, 2, dtype=torch.long), layout)) == 4
    for shape in [(4, 6), (4, 6, 1), (4, 5, 2), (6, 2)]:
        with pytest.raises(ValueError, match=r"must be \(batch, 6, 2\), not \("):
            Tokens(torch.zeros(shape, dtype=torch.long), layout)


def test_scales_are_laid_end_to_end_and_their_centres_stand_on_the_finest_grid() -> None:
    layout = Layout((4, 6), 1, 16, scales=((1, 1), (2, 3), (4, 6)))
    assert layout.positions == 1 + 6 + 24
    assert layout.bits == 31 * 4
    assert layout.extents == (3, 4, 6)
    places = layout.coordinates()
    assert places[:7].tolist() == [[0, 2, 3], *([1, row, column] for row in (1, 3) for column in (1, 3, 5))]
    assert places[7:].tolist() == [[2, row, column] for row in range(4) for column in range(6)]
    odd = Layout((8, 8), 1, 16, scales=tuple((side, side) for side in (1, 2, 3, 4, 6, 8))).coordinates()
    assert len({tuple(place) for place in odd.tolist()}) == 130, "no two share a place"
    assert (odd.amax(0) < torch.tensor([6, 8, 8])).all()
    for start, stop, side in ((0, 1, 1), (1, 5, 2), (5, 14, 3), (30, 66, 6)):
        centres = (odd[start:stop, 1] + 0.5) / 8  # of the cell that the centre lies in
        exact = torch.arange(side).repeat_interleave(side).add(0.5) / side
        assert (centres - exact).abs().max() <= 0.5 / 8 + 1e-6


def test_a_layout_survives_a_file() -> None:
    for layout in (Layout((7,)), Layout((4, 6), 3, 16), Layout((2, 2), 1, 16, ((1, 1), (2, 2)))):
        assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    assert "scales" not in Layout((4, 6)).to_json()


def test_scales_must_end_at_the_grid() -> None:
    for scales in [((1, 1), (2, 2)), ((1,), (4, 4)), ((4, 4), (1, 1))]:
        with pytest.raises(ValueError, match=r"end at the grid \(4, 4\)"):
            Layout((4, 4), 1, 16, scales)
