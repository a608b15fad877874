"""The set ``synthetic-speech``: sentences read by speech synthesizers, each with its exact words and voice, and marked as synthetic.

Made from the same texts and voices it is the same, sample by sample: eSpeak NG carries a state from one sentence to the next, so it reads
them all, in one order, in a process of its own; neural voices are given no random numbers.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from jielong.data.built import BuildError
from jielong.data.source import DataError, fraction
from jielong.data.splits import Split
from jielong.media.audio import encode_audio
from jielong.media.espeak import EspeakError, speak
from jielong_zoo.builders.neural_voices import KOKORO_VOICES, Samples, kokoro, piper
from jielong_zoo.builders.sentences import sentences

MINUTES = 10.0
_ENOUGH_TO_TELL = 50
HELDOUT_SHARE = 0.05
VOICES = {
    "espeak": (
        *("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-us+f1", "en-us+f4"),
        *("en-us+m1", "en-us+m3", "en-us+m7", "en-us+steph", "en-us+linda", "en-us+Annie"),
    ),
    "piper": ("joe",),
    "kokoro": KOKORO_VOICES,
}
"""By synthesizer. Of eSpeak NG those voices that read a text in the same way in every new process; not all do."""
LICENCE = (
    "# The speech in `synthetic-speech.parquet`\n\n"
    "All of it was made by machines, as the column `synthetic` says:\n\n"
    "- `espeak/...`: by eSpeak NG (https://github.com/espeak-ng/espeak-ng, GPL-3.0, which does not extend to what it says);\n"
    "- `piper/joe`: by the Piper voice en_US-joe-medium (MIT as packaged; its recordings CC0, finetuned from another voice);\n"
    "- `kokoro/...`: by Kokoro-82M of hexgrad (https://huggingface.co/hexgrad/Kokoro-82M, Apache-2.0), exported by kokoro-onnx (MIT).\n\n"
    "How words are pronounced was told to the neural voices by eSpeak NG. The sentences are those of jielong, Apache-2.0, unless others\n"
    "were given.\n"
)


def read_texts(path: Path) -> list[str]:
    """Sentences out of a file, one a line.

    Raises:
        DataError: if it cannot be read as UTF-8, or has no sentence.
    """
    try:
        lines = [" ".join(line.split()) for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text, one sentence a line: {error}") from error
    found = list(dict.fromkeys(line for line in lines if line))
    if not found:
        raise DataError(f"{path} holds no sentence; write one a line")
    return found


def plan(texts: Sequence[str], voices: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Pairs of text and voice, ``synthesizer/voice``: every text once, then again by another voice, until each has read all.

    Synthesizers take turns, and so do the voices of each: two share the reading half and half, whatever their numbers of voices.

    Args:
        texts: All different.
        voices: By synthesizer.
    """
    names, done = list(voices), set[tuple[str, str]]()
    for turn in range(len(names) * math.lcm(*map(len, voices.values()))):
        for place, text in enumerate(texts, turn):
            round_, which = divmod(place, len(names))
            own = voices[names[which]]
            pair = text, f"{names[which]}/{own[round_ % len(own)]}"
            if pair not in done:
                done.add(pair)
                yield pair


def synthetic_speech(
    minutes: float = MINUTES,
    synthesizers: Sequence[str] = ("espeak",),
    texts: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """A row a sentence read, until there are as many minutes.

    Held out is 5 % by a hash of the text, so what is held out was heard in no voice.

    Args:
        minutes: Of speech.
        synthesizers: Of :data:`VOICES`.
        texts: What to read; :func:`~jielong_zoo.builders.sentences.sentences` by default.
        progress: Called with the number of sentences so far.

    Raises:
        DataError: if a synthesizer is not known, ``minutes`` is not positive, or the texts do not last so long.
        BuildError: if a synthesizer is not installed.
    """
    unknown = [name for name in synthesizers if name not in VOICES]
    if unknown or not synthesizers:
        raise DataError(f"speech is synthesized by {' or '.join(VOICES)}, not {', '.join(unknown) or 'nothing'}")
    if not minutes > 0:
        raise DataError(f"minutes of speech must be more than 0, not {minutes:g}")
    voices = {name: VOICES[name] for name in synthesizers}
    texts, many = sentences() if texts is None else texts, sum(map(len, voices.values()))
    total, done, pairs = 0.0, 0, len(texts) * many
    with multiprocessing.get_context("spawn").Pool(1) as process:
        for text, voice in plan(texts, voices):
            try:
                samples, rate = process.apply(say, (text, voice))
            except EspeakError as error:
                raise BuildError(str(error)) from error
            waveform = torch.from_numpy(samples)[None]
            total, done = total + waveform.shape[1] / rate, done + 1
            if done == min(pairs, _ENOUGH_TO_TELL) and (most := total / done * pairs / 60) < minutes * (1.0 if done == pairs else 0.8):
                raise DataError(
                    f"{len(texts):,} texts in {many} voices last about {most:.1f} minutes, not {minutes:g}: "
                    "give fewer minutes, more texts or more voices"
                )
            if progress is not None:
                progress(done)
            yield {
                "audio": encode_audio(waveform, rate, ".flac"),
                "text": text,
                "language": "en",
                "voice": voice,
                "synthetic": True,
                "name": f"{done:06d}",
                "split": split_of(text),
                "seconds": waveform.shape[1] / rate,
            }
            if total >= 60 * minutes:
                return
    raise DataError(f"{len(texts):,} texts in {many} voices last {total / 60:.1f} minutes, not {minutes:g}: give fewer minutes")


def split_of(text: str) -> Split:
    """Whether a text is held out, in whatever voice: 5 % are."""
    # Sentences stand in the order of their own hash, so theirs would hold out the first of them all.
    return "heldout" if fraction(f"held out: {text}") < HELDOUT_SHARE else "train"


def say(text: str, voice: str) -> tuple[Samples, int]:
    """A text by a voice ``synthesizer/voice``: samples ``(T,)`` float32 in [-1, 1], and their rate in Hz."""
    synthesizer, _, name = voice.partition("/")
    if synthesizer == "espeak":
        waveform, rate = speak(text, name)
        return waveform[0].numpy(), rate
    return piper(text) if synthesizer == "piper" else kokoro(text, name)
