"""The first and last frame of a clip as conditions: which vectors they become, where, and what they refuse."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from jielong.conditions.base import BuildContext
from jielong.conditions.frames import FirstFrame, FrameCondition, LastFrame
from jielong.core.medium import ALONG_FRAMES, Medium
from jielong.core.tokens import Layout
from jielong.media.images import from_tensor, to_bytes, to_float
from jielong.media.kinds.image import image_medium

CLIPS = Medium("video", 3, ALONG_FRAMES, (5, 16, 24), 8.0)


def condition(
    into: str = "positions", grid: tuple[int, ...] = (2, 4, 6), media: Medium = CLIPS, part: Any = FirstFrame, blocks: int = 0
) -> FrameCondition:
    tokenizer: Any = SimpleNamespace(layout=Layout(grid, vocabulary=8), media=media)
    built = part(width=8, into=into, blocks=blocks).build(BuildContext(tokenizer=tokenizer))
    assert isinstance(built, FrameCondition)
    return built


def frames(count: int) -> torch.Tensor:
    return to_float(torch.randint(256, (count, 3, 16, 24), generator=torch.Generator().manual_seed(1), dtype=torch.uint8))


def test_every_token_gets_the_vector_of_its_place_at_all_times() -> None:
    built, given = condition(), frames(2)
    found = built.embed(built.prepare(list(given)))
    assert found.positions is not None
    assert found.positions.shape == (2, 2 * 4 * 6, 8)
    earlier, later = found.positions.unflatten(1, (2, 24)).unbind(1)
    assert torch.equal(earlier, later)
    # The cell at row 1, column 2 reads pixels of itself and of the eight cells around it.
    around = F.pad(given, (4, 4, 4, 4))[:, :, 4:16, 8:20]
    expected = (built.input.weight[None] * around[:, None]).sum((2, 3, 4)) + built.input.bias
    assert torch.allclose(earlier.unflatten(1, (4, 6))[:, 1, 2], expected, atol=1e-5)


def test_as_states_every_place_is_one_state_with_its_own_position() -> None:
    built = condition("states")
    found = built.embed(built.prepare(list(frames(3))))
    assert found.states.shape == (3, 24, 8)
    assert built.length == 24
    assert found.positions is None
    grey = built.embed(torch.zeros(1, 3, 16, 24)).states[0].unflatten(0, (4, 6))[1:-1, 1:-1].flatten(0, 1)  # borders see padding
    assert len(torch.unique(grey.detach(), dim=0)) == len(grey)


@pytest.mark.parametrize("into", ["positions", "states"])
def test_blocks_begin_at_the_vectors_of_the_places_and_add_to_them(into: str) -> None:
    torch.manual_seed(0)
    plain, deep, given = condition(into), condition(into, blocks=2), frames(2)
    assert not deep.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    vectors = plain.input(given)
    expected = deep.blocks[1](deep.blocks[0](vectors)) - vectors
    of_plain, of_deep = plain.embed(given), deep.embed(given)
    found = of_deep.states - of_plain.states if into == "states" else (of_deep.positions - of_plain.positions)[:, :24]
    torch.testing.assert_close(found, expected.flatten(2).mT, rtol=1e-4, atol=1e-5)
    for block in deep.blocks:
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)
    torch.testing.assert_close(deep.embed(given).states, of_plain.states)


def test_a_dropped_frame_leaves_no_vector_along_positions() -> None:
    built = condition()
    found = built(built.prepare(list(frames(2))), torch.tensor([True, False]))
    assert found.positions is not None
    assert not found.positions[0].any()
    assert found.positions[1].any()
    assert torch.equal(found.states[0, 0], built.null)


def test_paths_images_and_tensors_of_one_frame_are_the_same_value(tmp_path: Any) -> None:
    built, frame = condition(), frames(1)[0]
    picture = from_tensor(frame)
    picture.save(tmp_path / "frame.png")
    for value in (picture, tmp_path / "frame.png", str(tmp_path / "frame.png"), frame):
        assert torch.equal(built.resolve(value), frame)


def test_a_frame_of_another_size_is_fitted_as_pictures_are() -> None:
    built, large = condition(), torch.rand(3, 32, 32) * 2 - 1
    assert torch.equal(built.resolve(large), built.resolve(from_tensor(large)))


def test_frames_of_training_clips_are_known_by_key() -> None:
    built = condition(part=LastFrame)
    built.known["a"] = to_bytes(frames(1)[0])
    assert torch.equal(built.prepare(["a"]), frames(1))


def test_requests_hold_the_picture_itself() -> None:
    buffer = io.BytesIO()
    from_tensor(frames(1)[0]).save(buffer, "PNG")
    found = FirstFrame.input.from_json(base64.b64encode(buffer.getvalue()).decode())
    assert isinstance(found, Image.Image)
    with pytest.raises(ValueError, match="expected the bytes of a picture in base64"):
        FirstFrame.input.from_json("/etc/hostname")


@pytest.mark.parametrize(
    ("grid", "media"), [((4, 6), image_medium(3, (16, 24))), ((48,), CLIPS)], ids=["pictures", "tokens without places"]
)
def test_it_refuses_tokens_that_lie_in_no_clip(grid: tuple[int, ...], media: Medium) -> None:
    with pytest.raises(ValueError, match="lies on a grid of time, rows and columns, but these tokens have a grid"):
        condition(grid=grid, media=media)


def test_it_refuses_a_frame_of_other_channels() -> None:
    with pytest.raises(ValueError, match="a frame is 3 x height x width, not 1 x 16 x 24"):
        condition().resolve(torch.zeros(1, 16, 24))
