from __future__ import annotations

import itertools

import pytest
import torch

from jielong.tokens import Layout, Tokens


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
