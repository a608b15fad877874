"""Inputs of conditions: how values of a call are broadcast, named in errors, and read from the command line."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jielong.conditions.base import registered_inputs
from jielong.conditions.inputs import HeldoutItems, InputError, broadcast
from jielong.conditions.voice import Recording
from jielong.config.recipe import load
from jielong.config.registry import RecipeError
from jielong.core.medium import Medium
from jielong.data.sets import Batch
from jielong.media.audio import encode_audio
from jielong.media.kinds.audio import audio_medium
from jielong.media.kinds.image import image_medium
from jielong.system.inputs import gather, split_inputs

TEXT, CLASS, SECONDS, VOICE = (registered_inputs()[name] for name in ("text", "class", "seconds", "voice"))
SOUND = audio_medium(1, 400, 100)
IMAGE = image_medium(3, (4, 4))


def test_the_known_inputs() -> None:
    assert {each.name for each in registered_inputs().values() if each.generated} == {"base_tokens"}
    assert {each.keyword: each.option for each in registered_inputs().values() if not each.generated} == {
        "text": "--text", "classes": "--class", "seconds": "--seconds", "voice": "--voice", "emotion": "--emotion", "picture": "--picture",
        "first_frame": "--first-frame", "last_frame": "--last-frame", "actions": "--actions", "sound": "--sound",
        "low_resolution": "--low-resolution", "variation_of": "--variation-of", "features": "--features",
    }  # fmt: skip
    given, others = split_inputs({"text": "a", "classes": None, "voice": "v.wav", "steps": 3, "seed": None})
    assert given == {"text": "a", "voice": "v.wav"}
    assert others == {"steps": 3, "seed": None}


def test_one_value_or_as_many_as_the_longest() -> None:
    columns, items = broadcast({TEXT: ["a", "b"], SECONDS: 1.5}, [TEXT, SECONDS], 2, "toy")
    assert columns == {"text": ["a", "a", "b", "b"], "seconds": [1.5] * 4}
    assert items == 4
    assert broadcast({}, [TEXT], 3, "toy") == ({}, 0)
    with pytest.raises(InputError, match=r"^`seconds`: expected 1 or 3 values, got 2$") as fault:
        broadcast({TEXT: ["a", "b", "c"], SECONDS: [1, 2]}, [TEXT, SECONDS], 1, "toy")
    assert fault.value.on_command_line() == "--seconds: expected 1 or 3 values, got 2"
    with pytest.raises(InputError, match=r"^toy takes `text` and `seconds`, not `classes`$") as fault:
        broadcast({CLASS: "dog"}, [TEXT, SECONDS], 1, "toy")
    assert fault.value.on_command_line() == "toy takes --text and --seconds, not --class"


def test_what_one_value_is() -> None:
    assert TEXT.listed("ab") == ["ab"]
    assert CLASS.listed(3) == [3]
    assert CLASS.listed(range(2)) == [0, 1]
    vector, recording = torch.zeros(256), Recording(torch.zeros(1, 5), 16_000)
    assert VOICE.listed(vector)[0] is vector
    assert len(VOICE.listed(torch.zeros(3, 256))) == 3
    assert VOICE.listed(recording) == [recording]
    assert VOICE.listed(Path("a.wav")) == [Path("a.wav")]
    assert SECONDS.listed(torch.tensor([1.0, 2.5])) == [1.0, 2.5]
    with pytest.raises(InputError, match="`seconds`: expected numbers of seconds, not 'two'"):
        SECONDS.listed("two")


def test_values_of_the_command_line() -> None:
    assert SECONDS.parse("2.5") == 2.5
    assert VOICE.parse("a.wav") == Path("a.wav")
    assert CLASS.parse("3") == "3"
    with pytest.raises(ValueError, match="'x' is not a number of seconds"):
        SECONDS.parse("x")


def test_values_of_a_request() -> None:
    assert [each.from_json("ab") for each in (TEXT, CLASS)] == ["ab", "ab"]
    assert (CLASS.from_json(3), SECONDS.from_json(2), SECONDS.from_json("2.5")) == (3, 2.0, 2.5)
    wave = torch.linspace(-0.5, 0.5, 800)[None]
    recording = VOICE.from_json(base64.b64encode(encode_audio(wave, 16_000)).decode())
    assert isinstance(recording, Recording)
    assert (recording.rate, torch.allclose(recording.waveform, wave, atol=1 / 32_768)) == (16_000, True)
    for each, value in (
        (TEXT, 3),
        (TEXT, None),
        (CLASS, True),
        (SECONDS, True),
        (SECONDS, "two"),
        (VOICE, __file__),
        (VOICE, 3),
        (VOICE, ""),
    ):
        with pytest.raises(ValueError, match=r"expected|is not a number"):
            each.from_json(value)
    with pytest.raises(ValueError, match="the recording of a voice"):
        VOICE.from_json(base64.b64encode(b"no sound at all").decode())


def test_values_of_held_out_items() -> None:
    media = torch.arange(800.0).view(2, 1, 400)
    batch = Batch(media, ["a", ""], torch.tensor([1, 0]), ["x", "y"], lengths=torch.tensor([100, 300]))
    prompt = torch.zeros(1, 7)
    items = HeldoutItems("toys", batch, ["cat", "dog"], SOUND, [None, prompt], duration_scale=2.0)
    assert TEXT.from_heldout(items) is None, "an empty caption is none"
    assert CLASS.from_heldout(items) == ["dog", "cat"]
    assert SECONDS.from_heldout(items) == [2.0, 4.0], "scaled, and at most the medium's 4 s"
    assert SECONDS.from_batch(batch, SOUND) == [1.0, 3.0]
    first, other = VOICE.from_heldout(items) or ()
    assert torch.equal(first.waveform, media[0, :, :100])
    assert other.waveform is prompt
    assert other.rate == 100
    assert VOICE.from_batch(batch, SOUND) == ["x", "y"]


def empty(medium: Medium) -> Any:
    return SimpleNamespace(has_captions=False, classes=(), medium=medium)


def test_a_set_is_checked_before_training() -> None:
    for each, medium, fault in (
        (TEXT, IMAGE, "conditioned on text, but here has no captions"),
        (CLASS, IMAGE, "conditioned on classes, but here has none"),
        (VOICE, IMAGE, "conditioned on a voice, but here holds no sound"),
        (SECONDS, IMAGE, "conditioned on a duration, but here holds no sound"),
    ):
        with pytest.raises(RecipeError, match=fault):
            each.check(empty(medium), "here")
    VOICE.check(empty(SOUND), "here")


def test_durations_beside_a_condition_without_them() -> None:
    aligned: Any = SimpleNamespace(recipe=load("matcha-tts-tiny"), name="toy", stages={})
    plain: Any = SimpleNamespace(recipe=load("maskgit-tiny"), name="toy", stages={})
    found = gather(aligned, {"text": ["a", "b"], "seconds": [1.0, 2.0]}, 2, 0)
    assert found.conditions == ["a", "a", "b", "b"]
    assert found.durations == [1.0, 1.0, 2.0, 2.0]
    assert gather(aligned, {"text": "a", "seconds": [1.0, 2.0]}, 2, 0).durations == [1.0, 2.0]
    with pytest.raises(InputError, match=r"^`seconds`: expected 1 or 3 values, got 2$"):
        gather(aligned, {"text": "a", "seconds": [1.0, 2.0]}, 3, 0)
    with pytest.raises(InputError, match=r"^toy takes `text`, not `seconds`$"):
        gather(plain, {"text": "a", "seconds": 1.0}, 1, 0)
