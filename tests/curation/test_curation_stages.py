"""Each stage's measure against values that are known."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from curation_clips import cv2, moving, texture
from PIL import Image

from jielong.curation.ranges import Range, beyond
from jielong.curation.shots import ShotFinder, ShotSettings
from jielong.curation.stages.base import ClipFrames, Pair, reduced
from jielong.curation.stages.blur import Blur
from jielong.curation.stages.brightness import Brightness
from jielong.curation.stages.duplicates import Duplicates, Hashes, nearest_before
from jielong.curation.stages.metadata import Metadata
from jielong.curation.stages.motion import Motion, MotionSettings
from jielong.curation.stages.text import TextArea, TextSettings


def pairs(frames: list, step: int, seconds: float) -> ClipFrames:
    return ClipFrames(frames, pairs=[Pair(frames[0], frames[step], seconds)])


@pytest.mark.parametrize("method", ["farneback", "dis"])
def test_motion_is_the_shift_in_percent_of_the_longer_side_a_second(method: str) -> None:
    stage = Motion(MotionSettings(method=method))
    frames = list(moving(1, 8, across=2, height=96, width=128))
    # 2 px of 128 in 0.1 s: 15.6 % a second; the part that enters at the edge is not found
    assert stage.measure(pairs(frames, 1, 0.1))["motion"] == pytest.approx(100 * 2 / 128 / 0.1, rel=0.15)
    assert stage.measure(pairs(frames, 1, 0.2))["motion"] == pytest.approx(stage.measure(pairs(frames, 1, 0.1))["motion"] / 2)  # type: ignore[operator]


def test_motion_of_one_frame_and_of_a_still_is_nothing() -> None:
    still = texture(1, 48, 64)
    assert Motion(MotionSettings()).measure(ClipFrames([still])) == {"motion": 0.0}
    assert Motion(MotionSettings()).measure(pairs([still, still], 1, 0.1))["motion"] == pytest.approx(0, abs=0.1)
    assert Motion(MotionSettings(method="dis")).measure(pairs([still[:16, :16]] * 2, 1, 0.1))["motion"] == pytest.approx(0, abs=0.5)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    board = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    frame = np.repeat(board[:, :, None], 3, axis=2)
    # every pixel differs by 255 from its four neighbours: the Laplacian is +-1020, whose variance is its square
    assert Blur().measure(ClipFrames([frame]))["sharpness"] == pytest.approx(1020**2)
    sharp, soft = texture(2, 64, 64), cv2.GaussianBlur(texture(2, 64, 64), (0, 0), 6)
    assert Blur().measure(ClipFrames([soft]))["sharpness"] < 0.05 * Blur().measure(ClipFrames([sharp]))["sharpness"]  # type: ignore[operator]
    assert Blur().measure(ClipFrames([np.full((8, 8, 3), 77, np.uint8)])) == {"sharpness": 0.0}


def test_brightness_is_a_share_of_white() -> None:
    for value in (0, 51, 255):
        found = Brightness().measure(ClipFrames([np.full((8, 8, 3), value, np.uint8)] * 2))
        assert found["brightness"] == pytest.approx(value / 255)


def test_near_duplicates_as_a_plain_loop_finds_them() -> None:
    generator = np.random.default_rng(0)
    words = [int(each) for each in generator.integers(0, 2**63, 40)]
    clips: list[Hashes] = []
    for _ in range(600):  # more than a block
        base = words[generator.integers(40)]
        clips.append(tuple(None if generator.random() < 0.2 else base ^ (1 << int(generator.integers(63))) for _ in range(3)))
    kept: list[int] = []
    for index, (clip, found) in enumerate(zip(clips, nearest_before(clips, 4), strict=True)):
        best = (np.inf, -1)
        for other in kept:
            known = [(a, b) for a, b in zip(clip, clips[other], strict=True) if a is not None and b is not None]
            if known:
                best = min(best, (sum((a ^ b).bit_count() for a, b in known) / len(known), other))
        if best[0] <= 4:
            assert found is not None
            assert found == (best[1], pytest.approx(best[0], abs=1e-5))
        else:
            assert found is None
            kept.append(index)


def test_a_scaled_copy_is_near_and_another_clip_is_not() -> None:
    one, other = texture(1, 96, 128), texture(2, 96, 128)
    small = cv2.resize(one, (64, 48), interpolation=cv2.INTER_AREA)
    flat = np.full((48, 64, 3), 9, np.uint8)
    hashes = [Duplicates.hashes([frame]) for frame in (one, small, other, flat, flat)]
    found = nearest_before(hashes, 6)
    assert [each is not None for each in found] == [False, True, False, False, False]
    assert hashes[3] == (None,), "a frame of one colour has no hash"
    assert nearest_before([], 4) == []


@pytest.mark.parametrize("detector", ["content", "adaptive"])
def test_a_file_is_cut_where_the_picture_changes(detector: str) -> None:
    finder = ShotFinder(ShotSettings(detector=detector))
    # without fine detail, whose shift by a pixel is a change as large as a cut
    frames = [cv2.GaussianBlur(frame, (0, 0), 4) for frame in [*moving(1, 12), *moving(2, 15), *moving(3, 9)]]
    times = [frame / 8 for frame in range(len(frames) + 1)]
    for frame, start in zip(frames, times, strict=False):
        finder.add(frame, start)
    assert [(span.first, span.stop, span.start, span.end) for span in finder.spans(times)] == [
        (0, 12, 0.0, 1.5),
        (12, 27, 1.5, 27 / 8),
        (27, 36, 27 / 8, 4.5),
    ]


def test_a_cut_soon_after_another_is_none() -> None:
    spans = []
    times = [frame / 8 for frame in range(29)]
    for shortest in (0.4, 0.6, 1.6):
        finder = ShotFinder(ShotSettings(shortest=shortest))
        for frame, start in zip([*moving(1, 12), *moving(2, 4), *moving(3, 12)], times, strict=False):
            finder.add(cv2.GaussianBlur(frame, (0, 0), 4), start)
        spans.append([span.first for span in finder.spans(times)])
    assert spans == [[0, 12, 16], [0, 12], [0, 16]]


@pytest.mark.parametrize(("frames", "longest", "parts"), [(10, 1.0, [4, 3, 3]), (8, 1.0, [8]), (9, 1.0, [4, 5]), (3, 0.01, [1, 1, 1])])
def test_long_shots_become_equal_pieces(frames: int, longest: float, parts: list[int]) -> None:
    rate = 4.0 if frames == 10 else 8.0
    finder = ShotFinder(ShotSettings(detector="none", longest=longest))
    for frame in range(frames):
        finder.skip(frame / rate)
    spans = finder.spans([frame / rate for frame in range(frames + 1)])
    assert sorted(span.frames for span in spans) == sorted(parts)
    assert [span.first for span in spans[1:]] == [span.stop for span in spans[:-1]], "every frame is in one piece"
    assert all(span.seconds <= max(longest, 1 / rate) + 1 / rate / 2 for span in spans)


def test_both_ends_of_a_range_are_kept() -> None:
    limits = {"frame_rate": Range(min=8, max=30)}
    reasons = []
    for value in (np.nextafter(8, 0), 8.0, 30.0, np.nextafter(30, 31)):
        fault = beyond("metadata", Metadata.measures, limits, {"frame_rate": float(value)})
        reasons.append(None if fault is None else fault.reason)
    assert reasons == ["frame rate too low", None, None, "frame rate too high"]
    with pytest.raises(KeyError):
        beyond("metadata", Metadata.measures, limits, {})


def test_frames_are_reduced_and_never_enlarged() -> None:
    frame = texture(1, 48, 64)
    assert reduced(frame, 24).shape == (24, 32, 3)
    assert reduced(frame, 48) is frame
    assert reduced(frame.transpose(1, 0, 2).copy(), 24).shape == (32, 24, 3)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="reading text needs the ONNX Runtime")
def test_text_area_is_the_share_under_lines_that_can_be_read() -> None:
    plain = cv2.GaussianBlur(texture(1, 128, 192), (0, 0), 3)
    written = plain.copy()
    cv2.rectangle(written, (8, 96), (184, 124), (0, 0, 0), -1)
    cv2.putText(written, "some words below", (14, 116), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    stage = TextArea(TextSettings(frames=2))
    assert stage.measure(ClipFrames([plain], [plain])) == {"text_area": 0.0}
    found = stage.measure(ClipFrames([plain, written], [plain, written]))["text_area"]
    assert found is not None
    assert 0.5 < found / (176 * 28 / (128 * 192)) < 1.2, "the frame with the most text counts"
    assert Image.fromarray(written).size == (192, 128)
