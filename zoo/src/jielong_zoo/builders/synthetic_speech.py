"""The set ``synthetic-speech``: sentences by speech synthesizers, with exact transcript and voice, marked as synthetic.

It is reproducible bit for bit from the same texts and voices: eSpeak NG keeps state between sentences, so one process reads all of them in
one order; neural voices use no random numbers.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from jielong.data.built import BuildError
from jielong.data.source import DataError
from jielong.data.splits import Split, fraction
from jielong.data.text import decode_text, lines_of
from jielong.media.audio import encode_audio
from jielong.media.espeak import EspeakError, speak
from jielong_zoo.builders.neural_voices import KOKORO_VOICES, Samples, kokoro, piper
from jielong_zoo.builders.sentences import sentences

MINUTES = 10.0
_CHECKED_AFTER = 50  # sentences, after which the total duration is estimated
HELDOUT_SHARE = 0.05
VOICES = {
    "espeak": (
        *("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-us+f1", "en-us+f4"),
        *("en-us+m1", "en-us+m3", "en-us+m7", "en-us+steph", "en-us+linda", "en-us+Annie"),
    ),
    "piper": ("joe",),
    "kokoro": KOKORO_VOICES,
}
"""Voices by synthesizer; of eSpeak NG only voices whose output is the same in every new process."""
LICENCE = (
    "# The speech in `synthetic-speech.parquet`\n\n"
    "All of it is synthetic, as the column `synthetic` says:\n\n"
    "- `espeak/...`: by eSpeak NG (https://github.com/espeak-ng/espeak-ng, GPL-3.0, which does not extend to what it says);\n"
    "- `piper/joe`: by the Piper voice en_US-joe-medium (MIT as packaged; its recordings CC0, finetuned from another voice);\n"
    "- `kokoro/...`: by Kokoro-82M of hexgrad (https://huggingface.co/hexgrad/Kokoro-82M, Apache-2.0), exported by kokoro-onnx (MIT).\n\n"
    "Phonemes for the neural voices are by eSpeak NG. The sentences are those of jielong, Apache-2.0, unless others were given.\n"
)


def read_texts(path: Path) -> list[str]:
    """Distinct sentences of a file, one per line.

    Raises:
        DataError: if it is not UTF-8 text, or has no sentence.
    """
    try:
        lines = [" ".join(line.split()) for line in lines_of(decode_text(path.read_bytes(), str(path)))]
    except OSError as error:
        raise DataError(f"{path} cannot be read as text, one sentence per line: {error}") from error
    sentences_read = list(dict.fromkeys(line for line in lines if line))
    if not sentences_read:
        raise DataError(f"{path} has no sentence; write one per line")
    return sentences_read


def plan(texts: Sequence[str], voices: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Pairs of text and voice ``synthesizer/voice``: every text once, then again by other voices, until all pairs are used.

    Synthesizers alternate, and so do the voices of each, so that synthesizers have equal shares whatever their numbers of voices.

    Args:
        texts: Distinct texts.
        voices: Voices by synthesizer.
    """
    names, used = list(voices), set[tuple[str, str]]()
    for turn in range(len(names) * math.lcm(*map(len, voices.values()))):
        for index, text in enumerate(texts, turn):
            round_, number = divmod(index, len(names))
            choices = voices[names[number]]
            pair = text, f"{names[number]}/{choices[round_ % len(choices)]}"
            if pair not in used:
                used.add(pair)
                yield pair


def synthetic_speech(
    minutes: float = MINUTES,
    synthesizers: Sequence[str] = ("espeak",),
    texts: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """One row per sentence and voice, up to a total duration.

    5 % are held out by a hash of the text, so that a held-out text is in the training split in no voice.

    Args:
        minutes: Total duration in minutes.
        synthesizers: Names in :data:`VOICES`.
        texts: Sentences; :func:`~jielong_zoo.builders.sentences.sentences` by default.
        progress: Called with the number of sentences so far.

    Raises:
        DataError: if a synthesizer is unknown, ``minutes`` is not positive, or the texts are too few for it.
        BuildError: if a synthesizer is not installed.
    """
    unknown = [name for name in synthesizers if name not in VOICES]
    if unknown or not synthesizers:
        raise DataError(f"speech is synthesized by {' or '.join(VOICES)}, not {', '.join(unknown) or 'nothing'}")
    if not minutes > 0:
        raise DataError(f"minutes of speech must be more than 0, not {minutes:g}")
    voices = {name: VOICES[name] for name in synthesizers}
    texts, num_voices = sentences() if texts is None else texts, sum(map(len, voices.values()))
    total, count, pairs = 0.0, 0, len(texts) * num_voices
    with multiprocessing.get_context("spawn").Pool(1) as process:
        for text, voice in plan(texts, voices):
            try:
                samples, rate = process.apply(synthesize, (text, voice))
            except EspeakError as error:
                raise BuildError(str(error)) from error
            waveform = torch.from_numpy(samples)[None]
            total, count = total + waveform.shape[1] / rate, count + 1
            estimate = total / count * pairs / 60
            if count == min(pairs, _CHECKED_AFTER) and estimate < minutes * (1.0 if count == pairs else 0.8):
                raise DataError(
                    f"{len(texts):,} texts in {num_voices} voices last about {estimate:.1f} minutes, not {minutes:g}: "
                    "request fewer minutes, or add texts or voices"
                )
            if progress is not None:
                progress(count)
            yield {
                "audio": encode_audio(waveform, rate, ".flac"),
                "text": text,
                "language": "en",
                "voice": voice,
                "synthetic": True,
                "name": f"{count:06d}",
                "split": split_of(text),
                "seconds": waveform.shape[1] / rate,
            }
            if total >= 60 * minutes:
                return
    raise DataError(f"{len(texts):,} texts in {num_voices} voices last {total / 60:.1f} minutes, not {minutes:g}: request fewer minutes")


def split_of(text: str) -> Split:
    """Split of a text, for all voices: 5 % are held out."""
    # Sentences are sorted by the hash of the bare text, which would hold out the first ones.
    return "heldout" if fraction(f"held out: {text}") < HELDOUT_SHARE else "train"


def synthesize(text: str, voice: str) -> tuple[Samples, int]:
    """Speech by a voice ``synthesizer/voice``: samples ``(T,)`` float32 in [-1, 1] and sample rate in Hz."""
    synthesizer, _, name = voice.partition("/")
    if synthesizer == "espeak":
        waveform, rate = speak(text, name)
        return waveform[0].numpy(), rate
    return piper(text) if synthesizer == "piper" else kokoro(text, name)
