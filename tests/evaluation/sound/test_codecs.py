"""Comparison of codecs: toy tokenizers and the original on tones."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.core.medium import Medium
from jielong.core.tokens import Layout, Tokens
from jielong.evaluation.sound import codecs
from jielong.evaluation.sound.codecs import Original, Row, TokenizerCodec, compare, table
from jielong.evaluation.sound.protocol import MissingError
from jielong.media.kinds.audio import audio_medium
from jielong.media.kinds.image import image_medium
from jielong.networks.efficientnet import WeightsError
from jielong.tokenizers.base import Tokenizer


class Rounded(Tokenizer):
    """Samples rounded to a number of values."""

    def __init__(self, levels: int, media: Medium | None = None) -> None:
        super().__init__()
        self.levels = levels
        self.media = media or audio_medium(1, 800, 16_000)
        self.layout = Layout((800,), vocabulary=levels)

    def encode(self, media: Tensor) -> Tokens:
        codes = ((media + 1) / 2 * (self.levels - 1)).round().long().clamp(0, self.levels - 1)
        return Tokens(codes[:, 0, :, None], self.layout)

    def decode(self, tokens: Tokens) -> Tensor:
        return tokens.values[:, None, :, 0] / (self.levels - 1) * 2 - 1


@pytest.fixture(autouse=True)
def _without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise MissingError("it is not installed: pip install 'jielong[speech]'")

    def weightless() -> Any:
        raise WeightsError("no weights: pip install --no-deps resemblyzer")

    for name in ("Recogniser", "pesq_wb", "stoi", "visqol", "dnsmos"):
        monkeypatch.setattr(codecs, name, absent)
    monkeypatch.setattr(codecs, "SpeakerEncoder", weightless)


CLIPS = [0.5 * torch.sin(torch.arange(count) * 0.3) for count in (1000, 800, 2500)]


class Digits(Rounded):
    """Two codebooks of 16 codes: the high and the low hexadecimal digit of a sample."""

    quantizer = SimpleNamespace(progressive=True)

    def __init__(self) -> None:
        super().__init__(256)
        self.layout = Layout((800,), channels=2, vocabulary=16)

    def encode(self, media: Tensor) -> Tokens:
        codes = ((media + 1) / 2 * 255).round().long().clamp(0, 255)[:, 0, :, None]
        return Tokens(torch.cat([codes // 16, codes % 16], dim=-1), self.layout)

    def decode(self, tokens: Tokens) -> Tensor:
        high, low = tokens.values[..., 0], tokens.values[..., 1] if tokens.layout.channels == 2 else 8
        return (16 * high + low)[:, None] / 255 * 2 - 1


def test_leading_codebooks_and_row_callback() -> None:
    reported: list[list[str]] = []
    codecs = [TokenizerCodec(f"{count}", Digits(), num_codebooks=count) for count in (1, 2)]
    coarse, fine = compare(codecs, CLIPS, 16_000, on_row=lambda rows: reported.append([row.name for row in rows]))
    assert reported == [["1"], ["1", "2"]]
    assert (coarse.figures["kbps"].value, fine.figures["kbps"].value) == (64, 128)
    assert fine.figures["si_sdr"].value > coarse.figures["si_sdr"].value + 20
    with pytest.raises(ValueError, match="digits has 2 codebooks, so num_codebooks must be 1 to 2, not 3"):
        TokenizerCodec("digits", Digits(), num_codebooks=3)
    with pytest.raises(ValueError, match="no residual codebooks"):
        TokenizerCodec("samples", Rounded(256), num_codebooks=2)


def test_metrics_follow_quantization_error() -> None:
    rows = compare([Original(), TokenizerCodec("fine", Rounded(256)), TokenizerCodec("coarse", Rounded(8))], CLIPS, 16_000)
    assert [row.name for row in rows] == ["original", "fine", "coarse"]
    original, fine, coarse = (row.figures for row in rows)
    assert original["mel_distance"].value == 0
    assert original["kbps"].value == 256
    assert (fine["kbps"].value, coarse["kbps"].value) == (128, 48)
    assert fine["si_sdr"].value > coarse["si_sdr"].value + 20
    assert 0 < fine["mel_distance"].value < coarse["mel_distance"].value
    assert coarse["codebook_usage"].value == pytest.approx(5 / 8, abs=0.13)
    assert "jielong[speech]" in rows[0].omitted["wer"]
    assert "resemblyzer" in rows[0].omitted["speaker_similarity"]
    assert json.loads(json.dumps([row.to_json() for row in rows], allow_nan=False))[1]["name"] == "fine"


def test_skipped_metric_is_omitted() -> None:
    (row,) = compare([Original()], CLIPS, 16_000, skip_metrics=["si_sdr"])
    assert "si_sdr" not in row.figures
    assert row.omitted["si_sdr"] == "skipped"
    assert "mel_distance" in row.figures


def test_windowing_is_exact_for_a_samplewise_tokenizer() -> None:
    decoded = TokenizerCodec("fine", Rounded(256), batch=2)(CLIPS, 16_000).clips
    for clip, rebuilt in zip(CLIPS, decoded, strict=True):
        assert rebuilt.shape == clip.shape
        assert (clip - rebuilt).abs().max() <= 1 / 255 + 1e-6


def test_table_is_aligned_and_has_dashes_where_no_metric_applies() -> None:
    rows = compare([Original(), TokenizerCodec("a tokenizer", Rounded(8))], CLIPS, 16_000)
    lines = table([*rows, Row("nothing", {}, {})]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:3] == ["codec", "kbit/s", "mel"]
    assert lines[1].split()[-1] == "-", "the original has no codebook"
    assert "PESQ" not in lines[0]
    assert set(lines[3].split()) == {"nothing", "-"}


def test_image_tokenizer_is_rejected() -> None:
    with pytest.raises(ValueError, match="not of sound"):
        TokenizerCodec("pictures", Rounded(8, image_medium(3, (8, 8))))
