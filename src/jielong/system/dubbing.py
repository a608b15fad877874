"""Dubbing: speech exactly as long as a clip (IndexTTS2, arXiv 2506.21619), and a face that says it, drawn from the clip's first frame.

What is wrong with the inputs is said before a model is loaded, where the file tells it, and otherwise before anything is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from jielong.conditions.frames import FirstFrame
from jielong.conditions.sound import Sound
from jielong.conditions.voice import Recording, read_recording
from jielong.core.medium import ALONG_FRAMES
from jielong.media.audio import to_channels
from jielong.media.kinds.base import kind_of
from jielong.media.reading.sound import read_audio
from jielong.media.reading.timeline import frames_at
from jielong.media.reading.video import count_frames, read_header
from jielong.media.soundtrack import Soundtrack
from jielong.media.videos import Video
from jielong.system.long_text import predicted_tokens
from jielong.system.pipeline import System

SPEAKER = "indextts2-speech"
"""The shipped model that speaks for a given duration."""
SLOWEST, FASTEST = 0.5, 2.0
"""Times the model's own pace at which a text may be spoken."""
_COUNTED_AT = 100.0
"""Frames a second by which a file without a duration is measured."""


@dataclass(frozen=True)
class Lines:
    """What is said in which clip, checked as far as it goes without a model.

    Attributes:
        clip: The clip: a file or a folder of frames.
        text: What is said.
        seconds: Duration of the clip.
        voice: A recording of the speaker: the one that is given, or else the clip's own sound; ``None`` where it has none.
    """

    clip: Path
    text: str
    seconds: float
    voice: Recording | None

    @staticmethod
    def of(clip: Path, text: str, voice: Path | None = None) -> Lines:
        """Read what the files say of themselves.

        Raises:
            ValueError: if the text is empty, or the recording cannot be read.
            jielong.media.reading.faults.BrokenVideoError: if the clip is damaged or has no stream of pictures.
        """
        if not text.strip():
            raise ValueError("the text is empty: give the words that the face says")
        header = read_header(clip)
        seconds = header.seconds or count_frames(clip, str(clip), _COUNTED_AT) / _COUNTED_AT
        if voice is not None:
            return Lines(clip, text, seconds, read_recording(voice))
        return Lines(clip, text, seconds, Recording(*read_audio(clip)) if header.sound else None)


def check_speaker(speaker: System, lines: Lines) -> None:
    """Check that a model says a text in the time of a clip.

    Raises:
        ValueError: if it does not speak for a given duration, the clip is longer than its longest sound, or the text would be spoken slower
            or faster than :data:`SLOWEST` and :data:`FASTEST` times its own pace.
    """
    model, condition, media = speaker.generator, speaker.recipe.condition, speaker.tokenizer.media
    if model is None or condition is None or not model.durations.predicts_lengths or not {"text"} <= set(speaker.inputs):
        raise ValueError(f"{speaker.name} does not speak texts for a given duration: take a model such as {SPEAKER}")
    if lines.voice is not None and "voice" not in speaker.inputs:
        raise ValueError(f"{speaker.name} has one voice alone: take a model such as {SPEAKER}")
    if lines.seconds > media.duration:
        raise ValueError(
            f"{lines.clip.name} lasts {lines.seconds:.2f} s, and {speaker.name} says at most {media.duration:g} s at once: cut the clip"
        )
    with torch.inference_mode():
        tokens = predicted_tokens(model, condition.values({name: [value] for name, value in _said(lines).items()})[0])
    own = tokens * (speaker.tokenizer.hop_length or 1) / media.sample_rate
    if not SLOWEST <= own / lines.seconds <= FASTEST:
        factor, way, wanted = (FASTEST, "faster", "shorter") if own > lines.seconds else (1 / SLOWEST, "slower", "longer")
        raise ValueError(
            f"the text takes {own:.2f} s at the pace of {speaker.name}, and {lines.clip.name} lasts {lines.seconds:.2f} s, which is more "
            f"than {factor:g} times {way}: give a {wanted} text, of {SLOWEST * lines.seconds:.1f} to {FASTEST * lines.seconds:.1f} s"
        )


def check_face(face: System) -> None:
    """Raise ``ValueError`` unless a model draws clips from a first frame and a sound."""
    needed = (FirstFrame.input.name, Sound.input.name)
    if face.generator is None or face.tokenizer.media.axes != ALONG_FRAMES or not set(needed) <= set(face.inputs):
        takes, wanted = " and ".join(face.inputs) or "nothing", " and ".join(needed)
        raise ValueError(f"{face.name} is no model of talking faces: it takes {takes}, not {wanted}; train the recipe avatar")


def describe(face: System, lines: Lines) -> str:
    """What is drawn, in a sentence."""
    media, header = face.tokenizer.media, read_header(lines.clip)
    count, pieces = frames_at(lines.seconds, media.rate or 1), len(_starts(face, lines))
    size = f"{media.along('columns')} x {media.along('rows')} pixels at {media.rate:g} Hz"
    joined = f" in {pieces} pieces, each from the first frame," if pieces > 1 else ""
    given = f"{header.width} x {header.height} pixels" + (f" at {header.rate:g} Hz" if header.rate else "")
    voice = "the null voice" if lines.voice is None else "the voice given"
    return f"{lines.seconds:.2f} s of {voice}; {count} frames{joined} of {size}, from a clip of {given}"


def dub(lines: Lines, speaker: System, face: System, seed: int = 0) -> Video:
    """Speech as long as a clip, and a face that says it; raises ``ValueError`` as the checks do.

    The model of faces draws from the clip's first frame alone. A longer clip than the model's is drawn in pieces that begin with that
    frame, which all but the first leave out, so that mouths follow the sound, but not the last mouth of the piece before.
    """
    check_face(face)
    check_speaker(speaker, lines)
    media = face.tokenizer.media
    rate, count = media.rate or 1.0, frames_at(lines.seconds, media.rate or 1.0)
    speech = _speech(lines, speaker, seed)
    first = kind_of(media).read(lines.clip, media, face.recipe.data)[:, 0]
    starts = _starts(face, lines)
    sounds = [_window(speech, start / rate, media.frames / rate) for start in starts]
    drawn = face.generate(first_frame=first, sound=sounds, seed=seed).tensor
    frames = torch.cat([drawn[0], *(piece[:, 1:] for piece in drawn[1:])], dim=1)[:, :count]
    return Video(frames, rate, lines.text, speech)


def _said(lines: Lines) -> dict[str, object]:
    return {"text": lines.text, **({} if lines.voice is None else {"voice": lines.voice})}


def _starts(face: System, lines: Lines) -> list[int]:
    """First frame of each piece; a piece begins with the last frame of the one before."""
    media = face.tokenizer.media
    count, step = frames_at(lines.seconds, media.rate or 1.0), max(media.frames - 1, 1)
    return list(range(0, max(count - 1, 1), step))


def _speech(lines: Lines, speaker: System, seed: int) -> Soundtrack:
    """The text in the time of the clip, to the sample, mono."""
    media = speaker.tokenizer.media
    samples = round(lines.seconds * media.sample_rate)
    spoken = speaker.generate(**_said(lines), seconds=lines.seconds, seed=seed)[0].tensor  # type: ignore[arg-type]
    mono = to_channels(spoken, 1)[:, :samples]
    return Soundtrack(torch.cat([mono, mono.new_zeros(1, samples - mono.shape[1])], 1), media.sample_rate)


def _window(speech: Soundtrack, begin: float, seconds: float) -> Recording:
    """A part of the speech, as long as there is."""
    first, stop = round(begin * speech.rate), round((begin + seconds) * speech.rate)
    return Recording(speech.waveform[:, first:stop], speech.rate)
