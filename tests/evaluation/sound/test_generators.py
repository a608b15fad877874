"""Metrics of generated audio: on tones with a toy speaker encoder, and in a whole evaluation of an untrained generator."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from jielong.conditions.voice import VoiceCondition
from jielong.config.recipe import parse
from jielong.data.opening import open_data
from jielong.evaluation.context import DrawSettings, EvalContext, EvalResult
from jielong.evaluation.evaluate import evaluate
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.sound import metrics
from jielong.evaluation.sound.eval_audio import EvalAudio
from jielong.evaluation.sound.features import MelStatistics
from jielong.evaluation.sound.generators import generated
from jielong.evaluation.sound.metrics import Classes, Distances, Lengths, PredictedLengths, Quality, Voices, Words
from jielong.evaluation.sound.protocol import MissingError
from jielong.evaluation.sound.speakers import Speakers
from jielong.evaluation.sound.waveform import sounding_share
from jielong.media.audio import encode_audio
from jielong.media.kinds.audio import audio_medium
from jielong.system import System, build_generator, build_tokenizer

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

RATE, SAMPLES = 4_000, 1_600
HERTZ = {"ann": 400, "bob": 800, "cleo": 1_300}
RECIPE = """
data: {{set: {set}, sample_rate: 4000, duration: 0.4}}
tokenizer: samples
condition: {condition}
order: {order}
backbone: {backbone}
head: {head}
{more}
train: {{samples: 8}}
"""
KL = "{kl: {autoencoder: {seanet: {channels: 2, ratios: [40], residual_layers: 0, lstm: 0, norm: none}}, dim: 4}}"
JOINT = {
    "order": "at_once",
    "backbone": "{none: {width: 16}}",
    "head": "{flow_matching: {network: {dit: {layers: 1, width: 16, heads: 2}}, steps: 4, diffusion_batch_mul: 1}}",
}
CHAIN = {"order": "raster", "backbone": "{transformer: {layers: 1, width: 16, heads: 2}}", "head": "gaussian_mixture"}
SPOKEN = "{composite: {parts: {characters: {width: 16, layers: 1, heads: 2, aligned: even}, voice: {width: 16}}, width: 16}}"


def tone(hertz: float, seconds: float, phase: float = 0.0) -> Tensor:
    times = torch.arange(round(RATE * seconds)) / RATE
    return 0.5 * torch.sin(2 * math.pi * hertz * times + phase)[None]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Each speaker is a tone: four recordings to train on, and two held out."""
    rows = []
    for name, hertz in HERTZ.items():
        for place in range(6):
            rows.append(
                {
                    "audio": encode_audio(tone(hertz, 0.2 + 0.02 * place, place), RATE),
                    "text": f"{name} says {'abcdef'[place]}",
                    "speaker": name,
                    "label": name,
                    "language": "en",
                    "split": "train" if place < 4 else "heldout",
                    "name": f"{name}{place}",
                }
            )
    path = tmp_path_factory.mktemp("spoken") / "spoken.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.fixture(autouse=True)
def _without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise MissingError("it is not installed: pip install 'jielong[speech]'")

    for name in ("Recogniser", "dnsmos", "SpeakerEncoder", "WhisperFeatures"):
        monkeypatch.setattr(metrics, name, absent)
    monkeypatch.setattr(Distances, "features", absent)
    monkeypatch.setattr(
        VoiceCondition,
        "encode",
        lambda self, waveforms: torch.stack([torch.nn.functional.one_hot(peak(each), 256).float() for each in waveforms]),
    )


def peak(waveform: Tensor) -> Tensor:
    """Index of the frequency of a tone: steps of 20 Hz at 16,000 Hz."""
    return torch.fft.rfft(waveform[..., :800]).abs().argmax()


def system(data: str, condition: str = SPOKEN, more: str = "", **parts: str) -> System:
    recipe = parse(RECIPE.format(set=data, condition=condition, more=more, **(JOINT | parts)))
    media = audio_medium(1, SAMPLES, RATE)
    torch.manual_seed(0)
    tokenizer_recipe = parse(
        f"data: {{set: {data}, sample_rate: 4000, duration: 0.4}}\ntokenizer: {KL}\nlosses: {{regression: {{}}}}\ntrain: {{samples: 8}}"
    )
    tokenizer = build_tokenizer(tokenizer_recipe, media).eval()
    generator = build_generator(recipe, tokenizer, list(HERTZ)).eval().requires_grad_(False)
    for weight in generator.parameters():  # some are zero at initialisation, and would hide dependencies
        weight += 0.1 * torch.randn(weight.shape)
    return System("toy", recipe, tokenizer, generator)


def subject(system: System, data: str, draws: DrawSettings | None = None) -> EvalContext:
    sounds = open_data(data, "heldout", sample_rate=RATE, duration=0.4)
    rows = list(range(len(sounds)))
    return EvalContext(system, sounds, rows, sounds.media(rows), draws or DrawSettings(), lambda *_: None, source=data)


def eval_audio(data: str, sides: dict[str, list[Tensor]], model: System | None = None, **options: Any) -> EvalAudio:
    given = subject(model or system(data), data)
    speakers = Speakers.of(given.sounds, given.rows, open_data(data, sample_rate=RATE, duration=0.4))
    return EvalAudio(given, None, sides=sides, **{"durations": None, "speakers": speakers} | options)


class ToneEncoder:
    """A speaker encoder whose embedding is the frequency of a tone."""

    linear = SimpleNamespace(out_features=256)

    def embed(self, waveform: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(peak(waveform), 256).float()


# --- a whole evaluation ------------------------------------------------------------------------------------------------------------------


def test_evaluation_reports_metrics_and_reasons_for_missing_ones(spoken: str) -> None:
    model = system(spoken)
    fast = model.default_sampling(bool(model.inputs)).override(num_inference_steps=2)
    first, second = (evaluate(model, count=4, draws=DrawSettings(3, fast)).to_json() for _ in range(2))
    assert {"frechet_mel", "frechet_mel_real", "frechet_mel_rebuilt", "length_ratio", "times_real_time", "first_sound_ms"} <= first.keys()
    assert first["frechet_mel"] == second["frechet_mel"]
    assert first["frechet_mel"] != evaluate(model, count=4, draws=DrawSettings(4, fast)).to_json()["frechet_mel"]
    assert first["times_real_time"] > 0
    json.dumps(first, allow_nan=False)
    omitted = first["provenance"]["omitted"]
    assert {"wer", "cer", "dnsmos", "speaker_similarity", "frechet", "kernel"} <= omitted.keys()
    assert "jielong[speech]" in omitted["wer"]
    assert omitted["length_error"] == "no duration is requested"
    draws = first["provenance"]["draws"]
    assert (draws["seed"], draws["num_inference_steps"], draws["length_asked"]) == (3, 2, None)
    assert "speaker" in draws["voice_from"]
    assert first["provenance"]["reference"]["n"] == 4
    assert "sound_sha256" in first["provenance"]["reference"]
    bare = evaluate(model, count=4, ceiling=False).figures
    assert not [name for name in bare if name.endswith(("_real", "_rebuilt"))]


def test_skipped_metrics_are_not_computed(spoken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = system(spoken), list[str]()
    monkeypatch.setattr(Quality, "__call__", lambda self, audio: calls.append("dnsmos") or EvalResult())
    assert "dnsmos" not in evaluate(model, count=2).omitted
    assert calls == ["dnsmos"]
    found = evaluate(model, count=2, skip_metrics=["dnsmos", "frechet_mel", "first_sound_ms"])
    assert calls == ["dnsmos"], "a metric whose figures are all skipped is not computed"
    assert "times_real_time" in found.figures, "other figures of the same metric are computed"
    assert not [name for name in found.figures if name.startswith(("dnsmos", "frechet_mel", "first_sound_ms"))]
    assert found.omitted["frechet_mel"] == found.omitted["dnsmos"] == "skipped"
    with pytest.raises(ValueError, match=r"no metric 'dnsmoss' to skip; there are wer, cer, .*dnsmos, .*class_at_1"):
        evaluate(model, count=2, skip_metrics=["wer", "dnsmoss"])
    with pytest.raises(ValueError, match="codec has no metric to skip"):
        evaluate(replace(model, name="codec", generator=None), count=2, skip_metrics=["si_sdr"])


def test_requested_length_is_exact(spoken: str) -> None:
    model = system(spoken)
    sides = generated(subject(model, spoken, DrawSettings(length=1.25))).sides
    real = subject(model, spoken).clips
    assert [clip.shape[1] for clip in sides[""]] == [round(1.25 * clip.shape[1]) for clip in real]
    assert [clip.shape for clip in sides["_rebuilt"]] == [clip.shape for clip in real]
    told = evaluate(model, count=2, draws=DrawSettings(length=1.25), ceiling=False).to_json()
    assert told["length_error"] == 0
    assert told["provenance"]["omitted"]["length_ratio"] == "a duration is requested"


def test_sample_ended_by_stop_head_has_its_own_length(spoken: str) -> None:
    model = system(spoken, "{characters: {width: 16, layers: 1, heads: 2}}", "stop_head: {threshold: 0.5}", **CHAIN)
    found = evaluate(model, count=2).figures
    assert 0 < found["length_ratio"].value < 3
    assert found["first_sound_ms"].value > 0


def test_invalid_requests_are_rejected(spoken: str, tmp_path: Path) -> None:
    untimed = system(spoken, "{characters: {width: 16, layers: 1, heads: 2}}")
    with pytest.raises(ValueError, match="toy takes no durations"):
        evaluate(untimed, draws=DrawSettings(length=1.0))
    with pytest.raises(ValueError, match=r"above 0, such as --length 0\.75, not 0"):
        evaluate(system(spoken), draws=DrawSettings(length=0.0))
    table = pq.read_table(spoken).drop_columns(["text"])
    pq.write_table(table, tmp_path / "mute.parquet")
    with pytest.raises(
        ValueError, match=r"the condition needs a caption for every item, but .*mute\.parquet has none for its 6 clips of sound"
    ):
        evaluate(untimed, str(tmp_path / "mute.parquet"))


def test_voice_prompt_is_another_recording_of_the_speaker(spoken: str) -> None:
    given = subject(system(spoken), spoken)
    speakers = Speakers.of(given.sounds, given.rows, open_data(spoken, sample_rate=RATE, duration=0.4))
    assert speakers is not None
    assert {name: len(rows) for name, rows in speakers.references.items()} == dict.fromkeys(HERTZ, 4)
    for row, item in enumerate(given.conditions(speakers.prompts) or []):
        assert item["characters"] == given.sounds.captions[row]
        recording = item["voice"]
        assert recording.rate == RATE
        assert float(peak(recording.waveform[0])) == float(peak(given.clips[row][0]))
        assert not any(torch.equal(recording.waveform, clip) for clip in given.clips)
    conditions = given.conditions() or []
    assert torch.equal(conditions[0]["voice"].waveform, given.clips[0])


def test_stream_equals_generate_at_low_nfe(spoken: str) -> None:
    model = system(spoken)
    request = {"text": ["ann says a", "bob"], "seconds": 0.3, "seed": 5, "num_inference_steps": 2}
    whole, pieces = model.generate(**request), torch.cat(list(model.stream(**request)), 2)  # type: ignore[arg-type]
    torch.testing.assert_close(pieces, whole.tensor[..., : pieces.shape[2]])
    assert pieces.shape[2] == round(0.3 * RATE)
    other = torch.cat(list(model.stream(**request | {"num_inference_steps": 4})), 2)  # type: ignore[arg-type]
    assert not torch.equal(other, pieces)


# --- metrics -----------------------------------------------------------------------------------------------------------------------


def test_similarity_to_target_and_other_speakers(spoken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SpeakerEncoder", ToneEncoder)
    real = subject(system(spoken), spoken).clips
    half = [*real[:3], *(tone(HERTZ["ann"], 0.3) for _ in range(3))]
    figures = Voices()(eval_audio(spoken, {"": half, "_real": real})).figures
    assert figures["own_speaker_nearest_real"].value == figures["speaker_similarity_real"].value == 1
    assert figures["other_speaker_similarity_real"].value == 0
    assert figures["own_speaker_nearest"].value == pytest.approx(0.5)
    assert figures["speaker_similarity"].value == pytest.approx(0.5)
    unsaid = system(spoken, "{characters: {width: 16, layers: 1, heads: 2}}")
    assert "takes neither a voice nor a class" in Voices()(eval_audio(spoken, {"": real}, unsaid)).omitted["speaker_similarity"]
    assert "names no speakers" in Voices()(eval_audio(spoken, {"": real}, speakers=None)).omitted["own_speaker_nearest"]


def test_error_rate_over_languages_is_weighted() -> None:
    parts = {
        "en": Measurement("wer", 0.5, 2, {"edits": 2, "of": 4}),
        "fr": Measurement("wer", 1.0, 1, {"edits": 16, "of": 16}),
    }
    both = metrics._together("wer", parts)
    assert (both.value, both.n) == (18 / 20, 3)
    assert metrics._together("wer", {"en": parts["en"]}) is parts["en"]


def test_recogniser_per_language(spoken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class FrenchOnly:
        """Recognises French correctly, and no English."""

        def __init__(self, language: str = "en") -> None:
            self.language, self.details = language, {"language": language}

        def for_language(self, language: str) -> FrenchOnly:
            return FrenchOnly(language)

        def transcribe(self, clips: list[Tensor], rate: int) -> list[str]:
            return ["bob says e", "bob says f"] if self.language == "fr" else [""] * len(clips)

    monkeypatch.setattr(metrics, "Recogniser", FrenchOnly)
    audio = eval_audio(spoken, {"": subject(system(spoken), spoken).clips})
    audio.context.sounds.columns["language"] = ["fr" if name == "bob" else "en" for name in audio.context.sounds.columns["speaker"]]
    figures = Words()(audio).figures
    assert figures["wer"].value == pytest.approx(4 / 6)
    assert figures["wer"].details["languages"]["fr"]["value"] == 0


def test_length_error_and_trailing_silence(spoken: str) -> None:
    assert sounding_share(torch.cat([tone(400, 0.1), torch.zeros(1, 400)], 1), RATE) == pytest.approx(0.5)
    assert sounding_share(torch.zeros(1, 400), RATE) == 0
    assert sounding_share(tone(400, 0.11), RATE) == 1
    clips = [tone(400, 0.2), tone(400, 0.3)]
    figure = Lengths()(eval_audio(spoken, {"": clips}, durations=[0.2, 0.2])).figures["length_error"]
    assert figure.value == pytest.approx(0.25)
    assert figure.details["worst"] == pytest.approx(0.5)
    real = subject(system(spoken), spoken).clips
    twice = [torch.cat([clip, clip], 1) for clip in real]
    assert PredictedLengths()(eval_audio(spoken, {"": twice})).figures["length_ratio"].value == 2


def test_distance_of_identical_clips_is_zero(spoken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distances, "features", MelStatistics)
    real = subject(system(spoken), spoken).clips
    noise = [torch.rand(clip.shape, generator=torch.Generator().manual_seed(0)) - 0.5 for clip in real]
    figures = Distances()(eval_audio(spoken, {"": noise, "_real": real, "_rebuilt": real})).figures
    assert figures["frechet_rebuilt"].value == pytest.approx(0, abs=1e-3)
    assert figures["frechet"].value > 10 * figures["frechet_real"].value > 0
    assert figures["kernel"].value > figures["kernel_real"].value
    assert "small sample" in figures["frechet"].details["warning"]


def test_class_is_that_of_the_nearest_training_clip(spoken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "WhisperFeatures", MelStatistics)
    model = system(spoken, "{class: {width: 16}}")
    real = subject(model, spoken).clips
    audio = eval_audio(spoken, {"": real[2:] + real[:2], "_real": real}, model)
    assert "word error rates" in Classes()(audio).omitted["class_at_1"]  # a column `language` marks the set as speech
    del audio.context.sounds.columns["language"]
    figures = Classes()(audio).figures
    assert figures["class_at_1_real"].value == 1
    assert figures["class_at_1"].value == 0
    assert figures["class_at_1"].details["chance"] == pytest.approx(1 / 3)
    silent = replace(audio.context, rows=[])
    assert "two clips" in Distances()(replace(audio, context=silent)).omitted["frechet"]


def test_mel_statistics_separate_frequency_from_loudness() -> None:
    rows = MelStatistics()([tone(400, 0.3), 0.1 * tone(400, 0.3), tone(1_300, 0.3), torch.zeros(1, 3)], RATE)
    assert rows.shape == (4, 120)
    assert torch.isfinite(rows).all()
    assert rows[:2, :40].argmax(1).unique().numel() == 1
    assert rows[0, :40].argmax() < rows[2, :40].argmax()
