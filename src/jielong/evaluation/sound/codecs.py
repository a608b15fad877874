"""Codecs compared on the same clips: the original, Opus, and tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.core.json import JSON
from jielong.core.medium import ALONG_TIME
from jielong.core.tokens import Tokens
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.sound.listening import dnsmos, pesq_wb, stoi, visqol
from jielong.evaluation.sound.opus import opus_roundtrip
from jielong.evaluation.sound.protocol import at_rate, mono
from jielong.evaluation.sound.voices import speaker_similarity
from jielong.evaluation.sound.waveform import bitrate, mel_distance, si_sdr, stft_distance
from jielong.evaluation.sound.words import Recogniser, intelligibility
from jielong.evaluation.usage import codebook_usage
from jielong.media.reading.libraries import MissingLibraryError
from jielong.networks.efficientnet import WeightsError
from jielong.networks.speaker import SpeakerEncoder
from jielong.tokenizers.base import Tokenizer

Progress = Callable[[str, str], None]
"""Called with the name of a codec and the current stage."""


@dataclass(frozen=True)
class Result:
    """Decoded clips of a codec.

    Attributes:
        clips: ``(T,)`` each, as long as the inputs.
        figures: Metrics that only the codec knows: ``kbps``, ``codebook_usage``.
    """

    clips: list[Tensor]
    figures: dict[str, Measurement] = field(default_factory=dict)


class Codec(Protocol):
    """Encodes and decodes clips."""

    name: str

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Result:
        """Decoded clips, of clips ``(T,)`` in [-1, 1] at ``rate`` Hz."""
        ...


@dataclass(frozen=True)
class Original:
    """The clips themselves: the upper bound of every metric, and the error rate of the recogniser."""

    name: str = "original"

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Result:
        """The same clips; the bitrate is that of 16-bit samples."""
        return Result(list(clips), {"kbps": Measurement("kbps", 16 * rate / 1000, len(clips), {"unit": "kbit/s", "coding": "16 bits"})})


class Opus:
    """Opus at a requested bitrate; ``kbps`` is the measured one over all clips."""

    def __init__(self, kbps: float) -> None:
        self.requested, self.name = kbps, f"opus {kbps:g}"

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Result:
        """Each clip is encoded by itself."""
        coded = [opus_roundtrip(clip, rate, self.requested) for clip in clips]
        seconds = [len(clip) / rate for clip in clips]
        measured = sum(each.kbps * length for each, length in zip(coded, seconds, strict=True)) / sum(seconds)
        details = {
            "unit": "kbit/s",
            "requested": self.requested,
            "coding": "libopus, voip, constrained variable rate, 20 ms; container not counted",
        }
        return Result([each.waveform for each in coded], {"kbps": Measurement("kbps", measured, len(clips), details)})


class TokenizerCodec:
    """An audio tokenizer; if it takes one length only, clips are cut into windows of it and the last one is padded with silence.

    Args:
        name: Name in the table.
        tokenizer: Trained tokenizer.
        batch: Windows per batch.
        num_codebooks: Number of leading codebooks to decode; all by default.

    Raises:
        ValueError: if the tokenizer is for other media, or its leading codebooks cannot be decoded alone.
    """

    def __init__(self, name: str, tokenizer: Tokenizer, batch: int = 8, num_codebooks: int | None = None) -> None:
        self.name, self.tokenizer, self.batch = name, tokenizer, batch
        if tokenizer.media.axes != ALONG_TIME:
            raise ValueError(f"{name} is a tokenizer of {tokenizer.media}, not of sound")
        available = tokenizer.layout.channels
        if num_codebooks not in (None, available) and not getattr(getattr(tokenizer, "quantizer", None), "progressive", False):
            raise ValueError(f"{name} has no residual codebooks, so num_codebooks must be {available} or omitted, not {num_codebooks}")
        if num_codebooks is not None and not 1 <= num_codebooks <= available:
            raise ValueError(f"{name} has {available} codebooks, so num_codebooks must be 1 to {available}, not {num_codebooks}")
        self.num_codebooks: int = num_codebooks or available
        self.rate = tokenizer.media.sample_rate
        self.samples = tokenizer.media.frames

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Result:
        """Each clip by itself, or all windows of all clips in batches."""
        resampled = [at_rate(clip, rate, self.rate) for clip in clips]
        if self.tokenizer.any_length:
            return self._whole(clips, resampled, rate)
        windows = [F.pad(clip, (0, -len(clip) % self.samples)).view(-1, self.samples) for clip in resampled]
        decoded, codes = self._roundtrip(torch.cat(windows))
        rebuilt = []
        for clip, source, part in zip(clips, resampled, decoded.split([len(window) for window in windows]), strict=True):
            restored = at_rate(part.reshape(-1)[: len(source)], self.rate, rate)[: len(clip)]
            rebuilt.append(F.pad(restored, (0, len(clip) - len(restored))))
        return Result(rebuilt, self._figures(Tokens(codes, replace(self.tokenizer.layout, channels=self.num_codebooks))))

    def _figures(self, tokens: Tokens) -> dict[str, Measurement]:
        layout = replace(self.tokenizer.layout, channels=self.num_codebooks)
        if not layout.discrete:
            return {}
        return {"kbps": bitrate(layout, self.samples / self.rate), "codebook_usage": codebook_usage(tokens)}

    def _whole(self, clips: Sequence[Tensor], resampled: Sequence[Tensor], rate: int) -> Result:
        rebuilt, codes = [], []
        for clip, source in zip(clips, resampled, strict=True):
            decoded, tokens = self._roundtrip(source[None])
            restored = at_rate(decoded[0, : len(source)], self.rate, rate)[: len(clip)]
            rebuilt.append(F.pad(restored, (0, len(clip) - len(restored))))
            codes.append(tokens[0])
        values = torch.cat(codes)
        layout = replace(self.tokenizer.layout, grid=(len(values),), channels=self.num_codebooks)
        return Result(rebuilt, self._figures(Tokens(values[None], layout)))

    @torch.no_grad()
    def _roundtrip(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Windows ``(n, T)`` to reconstructions ``(n, T)`` and tokens ``(n, N, num_codebooks)``."""
        device = next((weight.device for weight in self.tokenizer.parameters()), torch.device("cpu"))
        decoded, codes = [], []
        for part in windows.split(self.batch):
            media = part[:, None].expand(-1, self.tokenizer.media.channels, -1).to(device)
            whole = self.tokenizer.encode(media)
            tokens = Tokens(whole.values[..., : self.num_codebooks], replace(whole.layout, channels=self.num_codebooks))
            decoded.append(self.tokenizer.decode(tokens).mean(1).cpu())
            codes.append(tokens.values.cpu())
        return torch.cat(decoded), torch.cat(codes)


@dataclass(frozen=True)
class Row:
    """One codec in the table.

    Attributes:
        name: Name of the codec.
        figures: Metrics by name.
        omitted: Reasons for missing metrics, by name.
    """

    name: str
    figures: dict[str, Measurement]
    omitted: dict[str, str]

    def to_json(self) -> JSON:
        """Ready for :func:`json.dumps`."""
        values = {name: measured.value for name, measured in self.figures.items()}
        return {"name": self.name, **values, "details": {k: v.to_json() for k, v in self.figures.items()}, "omitted": self.omitted}


def compare(
    codecs: Sequence[Codec],
    clips: Sequence[Tensor],
    rate: int,
    texts: Sequence[str] | None = None,
    language: str = "en",
    skip_metrics: Sequence[str] = (),
    progress: Progress | None = None,
    on_row: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Compare codecs on the same clips.

    Args:
        codecs: Codecs, one row each.
        clips: ``(T,)`` or ``(C, T)`` in [-1, 1].
        rate: Sample rate in Hz.
        texts: Transcripts; by default recognised from the originals.
        language: Language of the speech, ISO 639-1.
        skip_metrics: Names of metrics that are not computed.
        progress: Callback ``(codec, stage)``.
        on_row: Called after each codec with all rows so far.
    """
    real = mono(clips)
    metrics = _Metrics(real, rate, texts, language, skip_metrics)
    rows = []
    for codec in codecs:
        if progress:
            progress(codec.name, "coding")
        result = codec(real, rate)
        if progress:
            progress(codec.name, "measuring")
        figures, omitted = metrics.measure(result.clips)
        rows.append(Row(codec.name, result.figures | figures, omitted))
        if on_row:
            on_row(list(rows))
    return rows


class _Metrics:
    """Metrics of decoded clips against the originals; those whose package is missing are omitted with the reason."""

    def __init__(self, real: list[Tensor], rate: int, texts: Sequence[str] | None, language: str, skip_metrics: Sequence[str]) -> None:
        self.real, self.rate = real, rate
        self.texts, self.reference = texts, "transcript"
        self.omitted = dict.fromkeys(skip_metrics, "skipped")
        self.recogniser: Recogniser | None = None
        self.encoder: SpeakerEncoder | None = None
        try:
            self.recogniser = Recogniser(language)
            if texts is None:
                self.texts, self.reference = self.recogniser.transcribe(real, rate), "recognised from the original"
        except (ImportError, MissingLibraryError) as error:
            self.omitted |= dict.fromkeys(("wer", "cer"), str(error))
        try:
            self.encoder = SpeakerEncoder()
        except WeightsError as error:
            self.omitted["speaker_similarity"] = str(error)

    def measure(self, decoded: list[Tensor]) -> tuple[dict[str, Measurement], dict[str, str]]:
        """All metrics that apply, and the reasons for the others."""
        figures: dict[str, Measurement] = {}
        omitted = dict(self.omitted)
        measures: dict[str, Callable[[], Measurement]] = {
            "pesq_wb": lambda: pesq_wb(decoded, self.real, self.rate),
            "stoi": lambda: stoi(decoded, self.real, self.rate),
            "visqol": lambda: visqol(decoded, self.real, self.rate),
            "mel_distance": lambda: mel_distance(decoded, self.real, self.rate),
            "stft_distance": lambda: stft_distance(decoded, self.real, self.rate),
            "si_sdr": lambda: si_sdr(decoded, self.real, self.rate),
            "dnsmos": lambda: dnsmos(decoded, self.rate),
        }
        if self.encoder is not None:
            measures["speaker_similarity"] = lambda: speaker_similarity(decoded, self.real, self.rate, self.encoder)
        for name, measure in measures.items():
            if name in self.omitted:
                continue
            try:
                figures[name] = measure()
            except (ImportError, MissingLibraryError, ValueError) as error:
                omitted[name] = str(error)
        if self.recogniser is not None and self.texts is not None:
            try:
                figures |= intelligibility(decoded, self.texts, self.rate, self.recogniser, self.reference)
            except ValueError as error:
                omitted |= dict.fromkeys(("wer", "cer"), str(error))
        return figures, omitted


COLUMNS = {
    # metric: heading, format
    "kbps": ("kbit/s", "{:.2f}"),
    "pesq_wb": ("PESQ-wb", "{:.2f}"),
    "stoi": ("STOI", "{:.3f}"),
    "visqol": ("ViSQOL", "{:.2f}"),
    "mel_distance": ("mel dB", "{:.2f}"),
    "wer": ("WER %", "{:.1f}"),
    "dnsmos": ("DNSMOS", "{:.2f}"),
    "speaker_similarity": ("voice", "{:.3f}"),
    "si_sdr": ("SI-SDR", "{:.1f}"),
    "codebook_usage": ("usage %", "{:.1f}"),
}


def table(rows: Sequence[Row]) -> str:
    """The rows as text: one line per codec, one column per metric, a dash where a metric does not apply."""
    names = [name for name in COLUMNS if any(name in row.figures for row in rows)]
    lines = [["codec", *(COLUMNS[name][0] for name in names)]]
    for row in rows:
        values = {name: measured.value for name, measured in row.figures.items()}
        lines.append([row.name, *(cell(COLUMNS[name], values.get(name)) for name in names)])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text: the first column is left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def cell(column: tuple[str, str], value: float | None) -> str:
    """A formatted value, in percent if the heading has ``%``; a dash for ``None``."""
    heading, form = column
    return "-" if value is None else form.format(value * (100 if "%" in heading else 1))
