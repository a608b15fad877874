"""Codecs side by side on the same clips: the original as it is, Opus, and tokenizers of ours."""

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
from jielong.media.audio import MissingLibraryError
from jielong.networks.efficientnet import WeightsError
from jielong.networks.speaker import SpeakerEncoder
from jielong.tokenizers.base import Tokenizer

Progress = Callable[[str, str], None]
"""Called with a codec's name and what is done with it."""


@dataclass(frozen=True)
class Result:
    """What a codec decoded of clips.

    Attributes:
        clips: ``(T,)`` each, as long as what went in.
        figures: What only the codec knows: ``kbps``, ``codebook_usage``.
    """

    clips: list[Tensor]
    figures: dict[str, Measurement] = field(default_factory=dict)


class Codec(Protocol):
    """Clips there and back."""

    name: str

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Result:
        """Clips ``(T,)`` in [-1, 1] at ``rate`` Hz."""
        ...


@dataclass(frozen=True)
class Original:
    """Nothing is done: what every figure is at best, and what the recogniser gets wrong of itself."""

    name: str = "original"

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Result:
        """The same clips; their rate is that of 16-bit samples."""
        return Result(list(clips), {"kbps": Measurement("kbps", 16 * rate / 1000, len(clips), {"unit": "kbit/s", "coding": "16 bits"})})


class Opus:
    """Opus at a bitrate; the figure is what it spent over all clips."""

    def __init__(self, kbps: float) -> None:
        self.asked, self.name = kbps, f"opus {kbps:g}"

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Result:
        """Each clip by itself."""
        coded = [opus_roundtrip(clip, rate, self.asked) for clip in clips]
        seconds = [len(clip) / rate for clip in clips]
        spent = sum(each.kbps * length for each, length in zip(coded, seconds, strict=True)) / sum(seconds)
        details = {
            "unit": "kbit/s",
            "asked": self.asked,
            "coding": "libopus, voip, constrained variable rate, 20 ms; container not counted",
        }
        return Result([each.waveform for each in coded], {"kbps": Measurement("kbps", spent, len(clips), details)})


class Learned:
    """A tokenizer for sound; where it reads one length alone, clips are cut into windows of it, the last one filled with silence.

    Args:
        name: In the table.
        tokenizer: Trained.
        batch: Windows at a time.
        levels: How many leading levels of codes to keep; all of them when not given.

    Raises:
        ValueError: if the tokenizer is for other media, or has no such levels to leave out.
    """

    def __init__(self, name: str, tokenizer: Tokenizer, batch: int = 8, levels: int | None = None) -> None:
        self.name, self.tokenizer, self.batch = name, tokenizer, batch
        if tokenizer.media.axes != ALONG_TIME:
            raise ValueError(f"{name} is a tokenizer of {tokenizer.media}, not of sound")
        own = tokenizer.layout.channels
        if levels not in (None, own) and not getattr(getattr(tokenizer, "quantizer", None), "progressive", False):
            raise ValueError(f"the codes of {name} are no levels that are added up, so none can be left out")
        if levels is not None and not 1 <= levels <= own:
            raise ValueError(f"{name} has {own} levels of codes, and cannot be cut to {levels}")
        self.levels: int = levels or own
        self.rate = tokenizer.media.sample_rate
        self.samples = tokenizer.media.frames

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Result:
        """Every clip by itself, or all windows of all clips, a batch at a time."""
        resampled = [at_rate(clip, rate, self.rate) for clip in clips]
        if self.tokenizer.any_length:
            return self._whole(clips, resampled, rate)
        windows = [F.pad(clip, (0, -len(clip) % self.samples)).view(-1, self.samples) for clip in resampled]
        decoded, codes = self._through(torch.cat(windows))
        rebuilt = []
        for clip, own, part in zip(clips, resampled, decoded.split([len(window) for window in windows]), strict=True):
            back = at_rate(part.reshape(-1)[: len(own)], self.rate, rate)[: len(clip)]
            rebuilt.append(F.pad(back, (0, len(clip) - len(back))))
        return Result(rebuilt, self._figures(Tokens(codes, replace(self.tokenizer.layout, channels=self.levels))))

    def _figures(self, tokens: Tokens) -> dict[str, Measurement]:
        layout = replace(self.tokenizer.layout, channels=self.levels)
        if not layout.discrete:
            return {}
        return {"kbps": bitrate(layout, self.samples / self.rate), "codebook_usage": codebook_usage(tokens)}

    def _whole(self, clips: Sequence[Tensor], resampled: Sequence[Tensor], rate: int) -> Result:
        rebuilt, codes = [], []
        for clip, own in zip(clips, resampled, strict=True):
            decoded, values = self._through(own[None])
            back = at_rate(decoded[0, : len(own)], self.rate, rate)[: len(clip)]
            rebuilt.append(F.pad(back, (0, len(clip) - len(back))))
            codes.append(values[0])
        every = torch.cat(codes)
        return Result(rebuilt, self._figures(Tokens(every[None], replace(self.tokenizer.layout, grid=(len(every),), channels=self.levels))))

    @torch.no_grad()
    def _through(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Windows ``(n, T)`` to themselves, rebuilt, and to the tokens kept, ``(n, N, levels)``."""
        device = next((weight.device for weight in self.tokenizer.parameters()), torch.device("cpu"))
        decoded, codes = [], []
        for part in windows.split(self.batch):
            media = part[:, None].expand(-1, self.tokenizer.media.channels, -1).to(device)
            whole = self.tokenizer.encode(media)
            tokens = Tokens(whole.values[..., : self.levels], replace(whole.layout, channels=self.levels))
            decoded.append(self.tokenizer.decode(tokens).mean(1).cpu())
            codes.append(tokens.values.cpu())
        return torch.cat(decoded), torch.cat(codes)


@dataclass(frozen=True)
class Row:
    """A codec's line in the table.

    Attributes:
        name: Of the codec.
        figures: By name.
        omitted: Which figures are absent, and why.
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
    without: Sequence[str] = (),
    progress: Progress | None = None,
    done: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Every codec on the same clips.

    Args:
        codecs: What is compared.
        clips: ``(T,)`` or ``(C, T)`` in [-1, 1].
        rate: Hz.
        texts: What is said in them; without, what the recogniser hears in the originals stands in.
        language: Of the speech.
        without: Figures to leave out.
        progress: Callback ``(codec, stage)``.
        done: Called with all rows so far after each codec.
    """
    real = mono(clips)
    judges = _Judges(real, rate, texts, language, without)
    rows = []
    for codec in codecs:
        if progress:
            progress(codec.name, "coding")
        result = codec(real, rate)
        if progress:
            progress(codec.name, "measuring")
        figures, omitted = judges.measure(result.clips)
        rows.append(Row(codec.name, result.figures | figures, omitted))
        if done:
            done(list(rows))
    return rows


class _Judges:
    """What measures clips beside the originals; what is not installed is left out, with the reason."""

    def __init__(self, real: list[Tensor], rate: int, texts: Sequence[str] | None, language: str, without: Sequence[str]) -> None:
        self.real, self.rate = real, rate
        self.texts, self.reference = texts, "transcript"
        self.omitted = dict.fromkeys(without, "skipped")
        self.recogniser: Recogniser | None = None
        self.encoder: SpeakerEncoder | None = None
        try:
            self.recogniser = Recogniser(language)
            if texts is None:
                self.texts, self.reference = self.recogniser.transcribe(real, rate), "what the recogniser hears in the original"
        except (ImportError, MissingLibraryError) as error:
            self.omitted |= dict.fromkeys(("wer", "cer"), str(error))
        try:
            self.encoder = SpeakerEncoder()
        except WeightsError as error:
            self.omitted["speaker_similarity"] = str(error)

    def measure(self, decoded: list[Tensor]) -> tuple[dict[str, Measurement], dict[str, str]]:
        """All figures that apply."""
        figures: dict[str, Measurement] = {}
        omitted = dict(self.omitted)
        beside: dict[str, Callable[[], Measurement]] = {
            "pesq_wb": lambda: pesq_wb(decoded, self.real, self.rate),
            "stoi": lambda: stoi(decoded, self.real, self.rate),
            "visqol": lambda: visqol(decoded, self.real, self.rate),
            "mel_distance": lambda: mel_distance(decoded, self.real, self.rate),
            "stft_distance": lambda: stft_distance(decoded, self.real, self.rate),
            "si_sdr": lambda: si_sdr(decoded, self.real, self.rate),
            "dnsmos": lambda: dnsmos(decoded, self.rate),
        }
        if self.encoder is not None:
            beside["speaker_similarity"] = lambda: speaker_similarity(decoded, self.real, self.rate, self.encoder)
        for name, measure in beside.items():
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
    # figure -> its heading, and how it is printed
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
    """The rows as text: a codec a line, a figure a column, a dash where a figure does not apply."""
    names = [name for name in COLUMNS if any(name in row.figures for row in rows)]
    lines = [["codec", *(COLUMNS[name][0] for name in names)]]
    for row in rows:
        values = {name: measured.value for name, measured in row.figures.items()}
        lines.append([row.name, *(cell(COLUMNS[name], values.get(name)) for name in names)])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def cell(column: tuple[str, str], value: float | None) -> str:
    """A value under a heading, in its shape, in percent where the heading says so; a dash where there is none."""
    heading, shape = column
    return "-" if value is None else shape.format(value * (100 if "%" in heading else 1))
