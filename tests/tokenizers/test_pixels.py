from __future__ import annotations

import pytest
import torch

from jielong.core.tokens import Layout, Tokens
from jielong.media.kinds.image import image_medium
from jielong.tokenizers.pixels import Pixels


def test_eight_bit_pictures_come_back_exactly() -> None:
    tokenizer = Pixels().build(image_medium(3, (16, 16)))
    levels = torch.arange(768).view(1, 3, 16, 16) % 256
    media = levels / 127.5 - 1
    tokens = tokenizer.encode(media)
    assert torch.equal(tokens.values, levels.flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokenizer.decode(tokens), media)
    assert tokens.layout == Layout((16, 16), 3, 256)


@pytest.mark.parametrize("levels", [2, 3, 16])
def test_fewer_levels_round_to_the_nearest_and_codes_survive_the_round_trip(levels: int) -> None:
    tokenizer = Pixels(levels=levels).build(image_medium(1, (4, 6)))
    media = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2  # beyond the ends too
    tokens = tokenizer.encode(media)
    assert tokens.values.max() < levels
    assert float((tokenizer.decode(tokens) - media.clamp(-1, 1)).abs().max()) <= 1 / (levels - 1) + 1e-6
    assert torch.equal(tokenizer.encode(tokenizer.decode(tokens)).values, tokens.values)


def test_flattened_colours_are_positions_in_the_order_red_green_blue() -> None:
    tokenizer = Pixels(flatten=True).build(image_medium(3, (4, 6)))
    levels = torch.arange(2 * 72).view(2, 3, 4, 6)
    tokens = tokenizer.encode(levels / 127.5 - 1)
    assert tokens.layout == Layout((4, 6, 3), 1, 256, axes=("rows", "columns", "channels"))
    for item, (row, column, colour) in ((0, (0, 0, 0)), (1, (2, 5, 1)), (1, (3, 5, 2))):
        place = (row * 6 + column) * 3 + colour
        assert tokens.layout.coordinates()[place].tolist() == [row, column, colour]
        assert tokens.values[item, place, 0] == levels[item, colour, row, column]
    torch.testing.assert_close(tokenizer.decode(tokens), levels / 127.5 - 1)


def test_what_does_not_fit_is_refused() -> None:
    tokenizer = Pixels().build(image_medium(3, (4, 6)))
    for shape in [(1, 3, 6, 4), (1, 1, 4, 6), (3, 4, 6)]:
        with pytest.raises(ValueError, match=r"reads \(channels, rows, columns\) = \(3, 4, 6\), not"):
            tokenizer.encode(torch.zeros(shape))
    with pytest.raises(ValueError, match="these tokens are not this tokenizer's"):
        tokenizer.decode(Tokens(torch.zeros(1, 24, 3, dtype=torch.long), Layout((6, 4), 3, 256)))
    for levels in [1, 257]:
        with pytest.raises(ValueError, match=r"Input should be (greater|less) than or equal to"):
            Pixels(levels=levels).build(image_medium(3, (4, 4)))
