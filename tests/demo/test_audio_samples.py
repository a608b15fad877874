"""Audio sections of the demo: traces of spectrograms, players, and reasons of missing parts."""

from __future__ import annotations

import base64
import importlib.util
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console

from jielong.apps import demo
from jielong.apps.demo.audio_html import content
from jielong.apps.demo.audio_samples import NAMES, SENTENCES, AudioSection, StepRecorder, sound_sections, trace_clip
from jielong.apps.demo.page import Report, render
from jielong.conditions import voice
from jielong.config import recipe
from jielong.data.licences import LICENCE, Licence, Terms
from jielong.generation.callbacks import StepEvent
from jielong.media.audio import write_audio
from jielong.media.reading.sound import read_audio
from jielong.media.spectrograms import spectrogram
from jielong.networks.efficientnet import WeightsError
from jielong.networks.speaker import WIDTH
from jielong.system import load
from jielong.training import experiment

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

GENERATOR = """
data: {set: given by the test, sample_rate: 2000, duration: 0.05}
tokenizer: {samples: {levels: 16}}
condition: {composite: {parts: {characters: {length: 16, width: 8}, voice: {cfg_dropout: 0.2}}, width: 8}}
order: raster
backbone: {wavenet: {stacks: 1, layers: 3, width: 8}}
head: softmax
train: {samples: 16, batch: 8, warmup: 0}
"""
TOKENIZER = """
data: {set: given by the test, sample_rate: 2000, duration: 0.08}
tokenizer: {vq: {autoencoder: {seanet: {channels: 4, ratios: [4, 5], lstm: 0}}, dim: 4, quantizer: {vector: {codebook_size: 8}}}}
losses: {regression: {kind: l1, weight: 1.0}}
train: {samples: 16, batch: 8, warmup: 0}
"""


CONTINUOUS = """
data: {set: given by the test, sample_rate: 2000, duration: 0.08}
tokenizer: {kl: {autoencoder: {seanet: {channels: 4, ratios: [4, 5], lstm: 0}}, dim: 4}}
losses: {regression: {kind: l1, weight: 1.0}}
train: {samples: 16, batch: 8, warmup: 0}
"""
AT_ONCE = """
data: {set: given by the test, sample_rate: 2000, duration: 0.08}
tokenizer: {checkpoint: TOKENIZER}
condition: {characters: {length: 16, width: 8}}
order: at_once
backbone: {none: {width: 16}}
head: {flow_matching: {network: {dit: {layers: 1, width: 16, heads: 2}}, steps: 5}}
train: {samples: 16, batch: 8, warmup: 0}
"""


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight tones with transcripts, two of them held out."""
    folder = tmp_path_factory.mktemp("spoken")
    rows = ["path,text,speaker,split,attribution,licence,synthetic"]
    for index in range(8):
        samples = 100 - 4 * index
        tone = 0.5 * torch.sin(torch.arange(samples) * 2 * math.pi * (200 + 50 * index) / 2_000)[None]
        write_audio(folder / f"{index}.wav", tone, 2_000)
        who, split = "Ann" if index % 2 else "Bob", "heldout" if index > 5 else "train"
        rows.append(f"{index}.wav,tone & {index},{who},{split},Ann & Co,CC0,{'yes' if index % 2 else ''}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def copied(spoken: Path, folder: Path) -> Path:
    """A copy of the set, to be deleted."""
    return Path(shutil.copytree(spoken, folder / "set"))


def trained(text: str, folder: Path, spoken: Path | str, **changes: str) -> str:
    for old, new in changes.items():
        text = text.replace(old, new)
    experiment.run(recipe.parse(text, "test"), folder, data=str(spoken), progress=False, evaluate=False)
    return str(folder)


def without_voice(text: str) -> str:
    return re.sub(r"condition: .*", "condition: {characters: {length: 16, width: 8}}", text)


def test_a_recorder_keeps_evenly_spread_events_and_the_last() -> None:
    for steps in (1, 3, 7, 8, 9, 100, 1_001):
        recorder = StepRecorder(most=8)
        for step in range(1, steps + 1):
            recorder(StepEvent(step, torch.zeros(1, 1, 1), *torch.ones(3, 1, 1), guidance=1.0, rows=[0]))
        kept = [event.step for event in recorder.events]
        assert kept[-1] == steps
        assert len(kept) <= 9
        assert len(kept) == steps or len(kept) >= 4
        assert len({b - a for a, b in zip([0, *kept[:-2]], kept[:-1], strict=False)}) <= 1


def test_a_clip_is_what_generate_returns_and_its_trace_ends_with_it(spoken: Path, tmp_path: Path) -> None:
    system = load(trained(without_voice(GENERATOR), tmp_path / "run", spoken))
    sample = trace_clip(system, {"text": "tone & 1"}, "tone & 1", seed=3)
    trace, generated = sample.trace, system.generate(text="tone & 1", seed=3)[0]
    assert trace is not None
    assert torch.equal(sample.clip.waveform, generated.tensor)
    assert not sample.intermediate
    torch.testing.assert_close(trace.picture, spectrogram(generated.tensor, 2_000))
    assert len(trace.codes) == len(trace.steps) == 100
    assert trace.steps == sorted(trace.steps)
    assert max(trace.steps) == len(trace.frames)
    assert trace.grid[0] * trace.grid[1] >= 100


def test_a_parallel_trace_has_intermediate_clips(spoken: Path, tmp_path: Path) -> None:
    codec = trained(CONTINUOUS, tmp_path / "codec", spoken)
    system = load(trained(AT_ONCE, tmp_path / "run", spoken, TOKENIZER=codec))
    clip_trace = trace_clip(system, {"text": "tone & 1"}, "tone & 1", seed=3)
    trace = clip_trace.trace
    assert trace is not None
    assert torch.equal(clip_trace.clip.waveform, system.generate(text="tone & 1", seed=3)[0].tensor)
    assert len(trace.frames) == 5
    assert set(trace.steps) == {5}
    apart = [float((frame - trace.picture).abs().mean()) for frame in trace.frames]
    assert apart[0] > apart[3] > 0
    assert apart[4] == 0
    assert [clip.label for clip in clip_trace.intermediate] == [f"after step {step} of 5" for step in (1, 2, 3)]
    for clip, frame in zip(clip_trace.intermediate, trace.frames, strict=False):
        assert torch.equal(spectrogram(clip.waveform, clip.rate), frame)
    page = "".join(content(AudioSection("m", "t", [clip_trace], "jielong")))
    assert "denoised in parallel" in page
    assert page.count("<audio") == 3 + 1
    assert "tokens map" not in page


def test_sections_of_a_generator_and_a_tokenizer(spoken: Path, tmp_path: Path) -> None:
    generator = trained(without_voice(GENERATOR), tmp_path / "speaker", spoken)
    tokenizer = trained(TOKENIZER, tmp_path / "codec", spoken)
    missing: dict[str, str] = {}
    sections = sound_sections(0, missing, [tokenizer, generator, "no-such-model"])
    assert [each.model for each in sections] == [generator, tokenizer]
    assert "no-such-model" in missing
    speech, codec = sections
    assert [sample.clip.caption for sample in speech.samples] == ["tone & 6", "tone & 7"]  # held out
    assert [sample.real.label for sample in speech.samples if sample.real is not None] == ["recording, Bob", "synthetic voice, Ann"]
    assert speech.credits == ["Ann & Co, CC0"]
    assert codec.samples[0].trace is None
    assert codec.samples[0].real is not None
    assert codec.samples[0].clip.waveform.shape == codec.samples[0].real.waveform.shape == (1, 76)
    round_trip = "".join(content(codec))
    assert round_trip.index("recording, Bob") < round_trip.index(">reconstruction<")
    text = "".join(content(speech))
    assert text.count("<audio") == 4
    assert text.count('class="player"') == 2
    assert "tokens map" in text
    assert "synthetic speech" in text
    assert "synthetic voice, Ann" in text
    assert "tone &amp; 6" in text
    assert "Ann &amp; Co" in text
    assert "--text &#x27;tone &amp; 6&#x27;" in text
    found = re.search(r"audio/wav;base64,([^\"]+)", text)
    assert found is not None
    decoded, rate = read_audio(base64.b64decode(found[1]), "clip.wav")
    assert rate == 2_000
    assert float((decoded - speech.samples[0].clip.waveform).abs().max()) < 1e-4


def test_a_voice_condition_is_shown_with_other_voices(spoken: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("resemblyzer") is None:
        pytest.skip("the speaker encoder's weights are not installed")
    missing: dict[str, str] = {}
    (section,) = sound_sections(0, missing, [trained(GENERATOR, tmp_path / "run", spoken)])
    assert not missing
    assert [clip.caption for _, clip in section.voices] == ["tone & 6"] * 2
    assert "In other voices" in "".join(content(section))


def test_without_recordings_the_reference_voice_is_generated(spoken: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("resemblyzer") is None:
        pytest.skip("the speaker encoder's weights are not installed")
    copy = copied(spoken, tmp_path)
    run = trained(GENERATOR.replace("length: 16", "length: 60"), tmp_path / "run", copy)
    shutil.rmtree(copy)
    missing: dict[str, str] = {}
    (section,) = sound_sections(4, missing, [run])
    assert not missing
    ((reference, clip),) = section.voices
    assert (reference.caption, clip.caption) == (SENTENCES[-1], SENTENCES[0])
    assert torch.equal(reference.waveform, load(run).generate(text=SENTENCES[-1], seed=5)[0].tensor)


def test_without_speaker_encoder_the_section_has_no_voices(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        def embed_all(self, waveforms: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.nn.functional.normalize(torch.ones(len(waveforms), WIDTH), dim=1)

    def lacking() -> Encoder:
        raise WeightsError("the speaker encoder needs resemblyzer: install it")  # as the speaker encoder does

    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))  # a cache of this encoder's features only
    monkeypatch.setattr(voice, "SpeakerEncoder", Encoder)
    run, missing = trained(GENERATOR, tmp_path / "run", spoken), dict[str, str]()
    monkeypatch.setattr(voice, "SpeakerEncoder", lacking)
    (section,) = sound_sections(0, missing, [run])
    assert len(section.samples) == 2
    assert not section.voices
    assert "resemblyzer" in missing[f"other voices of {run}"]


def test_text_to_audio_examples_without_recordings(spoken: Path, tmp_path: Path) -> None:
    copy = copied(spoken, tmp_path)
    described = re.sub("condition: .*", "condition: {text: {encoder: bytes}}", GENERATOR)
    run = trained(described, tmp_path / "run", copy)
    shutil.rmtree(copy)
    missing: dict[str, str] = {}
    (section,) = sound_sections(0, missing, [run])
    assert not missing
    assert section.title == f"Audio from {run}"
    assert [sample.clip.caption for sample in section.samples] == list(NAMES)
    assert "--text 'bass, hit'" in section.command
    text = "".join(content(section))
    assert text.count("<audio") == text.count('class="player"') == 3


def test_of_joined_sets_the_installed_ones_are_used(spoken: Path, tmp_path: Path) -> None:
    copy = copied(spoken, tmp_path)
    run = trained(without_voice(GENERATOR), tmp_path / "run", f"{copy},{spoken}")
    shutil.rmtree(copy)
    (section,) = sound_sections(0, {}, [run])
    assert [sample.clip.caption for sample in section.samples] == ["tone & 6", "tone & 7"]
    assert all(sample.real is not None for sample in section.samples)


def test_audio_sections_of_the_page(spoken: Path, tmp_path: Path) -> None:
    bare = render(Report(machine="m", seed=0, command="jielong demo", prompts=["x"]))
    assert "<audio" not in bare
    page = demo.run(
        tmp_path / "demo",
        minutes=0,
        models=[],
        tokenizer="none-here",
        sounds=[trained(without_voice(GENERATOR), tmp_path / "run", spoken), "gone"],
        prompts=["x"],
        console=Console(quiet=True),
    )
    text = page.read_text()
    assert "Speech from" in text
    assert text.count("<audio") == 4
    assert "<code>gone</code> (" in text


def test_without_the_data_set_fixed_sentences_are_used_and_a_codec_is_skipped(spoken: Path, tmp_path: Path) -> None:
    copy = copied(spoken, tmp_path)
    names = [
        trained(without_voice(GENERATOR).replace("length: 16", "length: 60"), tmp_path / "a", copy),
        trained(TOKENIZER, tmp_path / "b", copy),
    ]
    shutil.rmtree(copy)
    missing: dict[str, str] = {}
    (section,) = sound_sections(0, missing, names)
    assert section.model == names[0]
    assert section.samples[0].clip.caption == SENTENCES[0]
    assert section.samples[0].real is None
    assert section.licence is None
    assert "weights under" not in "".join(content(section))
    licence = Licence(
        "CC BY-SA 3.0", (Terms("set", "Ann & Co", "CC BY 3.0"), Terms("other", "Ann & Co", "CC BY 3.0"), Terms("set", "Bob", "MIT"))
    )
    (Path(names[0]) / LICENCE).write_text(licence.to_json())
    (section,) = sound_sections(0, missing, names[:1])
    page = "".join(content(section))
    assert "weights under CC BY-SA 3.0" in page
    assert ": Ann &amp; Co (CC BY 3.0); Bob (MIT)." in page
    assert "is not installed" in missing[names[1]]
