"""Perceptual metrics of audio: PESQ, STOI, ViSQOL and DNSMOS, each at its sample rate."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from jielong.core.json import JSON
from jielong.evaluation.provenance import Measurement, package_version
from jielong.evaluation.sound.protocol import at_rate, averaged, missing, mono, of_pairs

RATE = 16_000
_SECONDS = 9.01  # input length of DNSMOS
# Polynomials from outputs of DNSMOS P.835 to ratings (arXiv 2110.01763), as published, highest power first.
_RATINGS = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}


def pesq_wb(clips: Iterable[Tensor], real: Iterable[Tensor], rate: int) -> Measurement:
    """Wideband PESQ (ITU-T P.862.2), about 1 to 4.64, at 16 kHz. Clips without detected speech are left out.

    Args:
        clips: Clips ``(T,)`` or ``(C, T)`` in [-1, 1].
        real: References of the same lengths.
        rate: Sample rate in Hz.

    Raises:
        MissingError: if the package is not installed.
        ValueError: if numbers or lengths of clips and references differ, or values are outside [-1, 1].
    """
    try:
        from pesq import PesqError, pesq
    except ImportError:
        raise missing("pesq", "speech-quality") from None

    def score(x: Tensor, y: Tensor) -> float | None:
        if len(x) < RATE // 4 or not bool(x.any()) or not bool(y.any()):
            return None
        value = float(pesq(RATE, y.numpy(), x.numpy(), "wb", on_error=PesqError.RETURN_VALUES))
        return value if value > 0 else None

    return of_pairs("pesq_wb", clips, real, rate, score, {"library": f"pesq {package_version('pesq')}"}, at=RATE)


def stoi(clips: Iterable[Tensor], real: Iterable[Tensor], rate: int) -> Measurement:
    """Short-time objective intelligibility (Taal et al., 2011), at most 1. Clips that are too short are left out.

    Arguments as :func:`pesq_wb`.
    """
    try:
        from pystoi import stoi as public
    except ImportError:
        raise missing("pystoi", "speech") from None

    def score(x: Tensor, y: Tensor) -> float | None:
        if not bool(y.any()):
            return None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = float(public(y.double().numpy(), x.double().numpy(), RATE, extended=False))
        return None if any("STFT frames" in str(warning.message) for warning in caught) else value

    return of_pairs("stoi", clips, real, rate, score, {"library": f"pystoi {package_version('pystoi')}", "extended": False}, at=RATE)


def visqol(clips: Iterable[Tensor], real: Iterable[Tensor], rate: int, mode: Literal["speech", "audio"] = "speech") -> Measurement:
    """ViSQOL 3 (arXiv 2004.09584): a mean opinion score from 1 to 5. Clips it cannot compare are left out.

    Args:
        clips: As in :func:`pesq_wb`.
        real: As in :func:`pesq_wb`.
        rate: Sample rate in Hz.
        mode: ``speech``, at 16 kHz, uses the lattice network of the reference implementation, or without its runtime (ai-edge-litert) a
            polynomial, which gives higher scores and is named in the details. ``audio`` is at 48 kHz.
    """
    api, mapping = _visqol(mode)

    def score(x: Tensor, y: Tensor) -> float | None:
        if not bool(x.any()) or not bool(y.any()):
            return None
        input_rate = RATE if mode == "speech" else 48_000
        try:
            value = float(api.measure_from_arrays(y.double().numpy(), x.double().numpy(), input_rate).moslqo)
        except (ValueError, RuntimeError, IndexError):  # shorter than a patch, or without activity
            return None
        return value if math.isfinite(value) else None

    details: JSON = {"library": f"visqol-python {package_version('visqol-python')}", "mode": mode, "mapping": mapping}
    return of_pairs("visqol", clips, real, rate, score, details, at=RATE if mode == "speech" else 48_000)


@functools.cache
def _visqol(mode: str) -> tuple[Any, str]:
    try:
        from visqol import VisqolApi
    except ImportError:
        raise missing("visqol-python", "speech-quality") from None
    logging.getLogger("visqol").setLevel(logging.ERROR)
    lattice = mode == "speech" and importlib.util.find_spec("ai_edge_litert") is not None
    api = VisqolApi()
    api.create(mode=mode, use_lattice_model=lattice if mode == "speech" else None)
    return api, "support vectors" if mode == "audio" else "lattice" if lattice else "polynomial (higher scores than the lattice)"


def dnsmos(clips: Iterable[Tensor], rate: int) -> Measurement:
    """DNSMOS P.835 (arXiv 2110.01763): quality of speech without a reference, about 1 to 5, at 16 kHz.

    The value is the overall quality; the details hold ``sig`` and ``bak``, the quality of the speech and of the background. Clips shorter
    than 9.01 s are repeated; longer ones are averaged over windows a second apart.

    Args:
        clips: ``(T,)`` or ``(C, T)`` in [-1, 1].
        rate: Sample rate in Hz.

    Raises:
        MissingError: if packages are not installed.
        ValueError: if values are outside [-1, 1].
    """
    session, digest = _dnsmos()
    single = mono(clips)
    rated = [_rate(session, at_rate(clip, rate, RATE).numpy()) for clip in single]
    means = {name: float(np.mean([each[name] for each in rated])) for name in _RATINGS}
    details = {"scale": "overall quality, P.835", "sig": means["sig"], "bak": means["bak"], "weights_sha256": digest}
    return averaged("dnsmos", [each["ovrl"] for each in rated], single, rate, details)


class _Session(Protocol):
    def run(self, outputs: None, inputs: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]: ...


def _rate(session: _Session, samples: NDArray[np.float32]) -> dict[str, float]:
    window = int(_SECONDS * RATE)
    samples = samples.clip(-1, 1)
    while len(samples) < window:
        samples = np.append(samples, samples)
    count = int(len(samples) // RATE - _SECONDS) + 1
    outputs = []
    for second in range(max(count, 1)):
        part = samples[second * RATE : int((second + _SECONDS) * RATE)]
        if len(part) >= window:
            outputs.append(session.run(None, {"input_1": part[None].astype(np.float32)})[0][0])
    sig, bak, ovrl = np.array(outputs).T
    return {name: float(np.polyval(_RATINGS[name], output).mean()) for name, output in (("sig", sig), ("bak", bak), ("ovrl", ovrl))}


@functools.cache
def _dnsmos() -> tuple[_Session, str]:
    """The network and the SHA-256 of its file; of the package only that file is used."""
    spec = importlib.util.find_spec("speechmos")
    if spec is None or importlib.util.find_spec("onnxruntime") is None:
        raise missing("speechmos with onnxruntime", "speech")
    import onnxruntime

    path = Path((spec.submodule_search_locations or [""])[0]) / "dnsmos_models" / "sig_bak_ovr.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options), hashlib.sha256(path.read_bytes()).hexdigest()
