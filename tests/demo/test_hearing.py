"""Models of sound in the demo: films of spectrograms, players, and what is said where something is missing."""

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
from jielong.apps.demo.audio_samples import NAMES, SENTENCES, Film, Hearing, listen, tell
from jielong.apps.demo.page import Report, render
from jielong.conditions import voice
from jielong.config import recipe
from jielong.data.licences import LICENCE, Licence, Terms
from jielong.generation.callbacks import StepEvent
from jielong.media.audio import read_audio, write_audio
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
    """Eight tones with words, two of them held out."""
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
    """The same set at another place, to be lost."""
    return Path(shutil.copytree(spoken, folder / "set"))


def trained(text: str, folder: Path, spoken: Path | str, **changes: str) -> str:
    for old, new in changes.items():
        text = text.replace(old, new)
    experiment.run(recipe.parse(text, "test"), folder, data=str(spoken), progress=False, evaluate=False)
    return str(folder)


def told(text: str) -> str:
    return re.sub(r"condition: .*", "condition: {characters: {length: 16, width: 8}}", text)


def test_a_film_keeps_some_moments_evenly_and_the_last() -> None:
    for steps in (1, 3, 7, 8, 9, 100, 1_001):
        film = Film(most=8)
        for step in range(1, steps + 1):
            film(StepEvent(step, torch.zeros(1, 1, 1), *torch.ones(3, 1, 1), guidance=1.0, rows=[0]))
        kept = [moment.step for moment in film.moments]
        assert kept[-1] == steps
        assert len(kept) <= 9
        assert len(kept) == steps or len(kept) >= 4
        assert len({b - a for a, b in zip([0, *kept[:-2]], kept[:-1], strict=False)}) <= 1


def test_a_clip_is_what_generate_makes_and_its_film_ends_with_it(spoken: Path, tmp_path: Path) -> None:
    system = load(trained(told(GENERATOR), tmp_path / "run", spoken))
    told_of = tell(system, {"text": "tone & 1"}, "tone & 1", seed=3)
    story, made = told_of.story, system.generate(text="tone & 1", seed=3)[0]
    assert story is not None
    assert torch.equal(told_of.clip.waveform, made.tensor)
    assert not told_of.on_the_way
    torch.testing.assert_close(story.picture, spectrogram(made.tensor, 2_000))
    assert len(story.codes) == len(story.born) == 100
    assert story.born == sorted(story.born)
    assert max(story.born) == len(story.film)
    assert story.grid[0] * story.grid[1] >= 100


def test_what_is_drawn_at_once_is_seen_forming(spoken: Path, tmp_path: Path) -> None:
    codec = trained(CONTINUOUS, tmp_path / "codec", spoken)
    system = load(trained(AT_ONCE, tmp_path / "run", spoken, TOKENIZER=codec))
    made = tell(system, {"text": "tone & 1"}, "tone & 1", seed=3)
    story = made.story
    assert story is not None
    assert torch.equal(made.clip.waveform, system.generate(text="tone & 1", seed=3)[0].tensor)
    assert len(story.film) == 5
    assert set(story.born) == {5}
    apart = [float((frame - story.picture).abs().mean()) for frame in story.film]
    assert apart[0] > apart[3] > 0
    assert apart[4] == 0
    assert [clip.label for clip in made.on_the_way] == [f"after step {step} of 5" for step in (1, 2, 3)]
    for clip, frame in zip(made.on_the_way, story.film, strict=False):
        assert torch.equal(spectrogram(clip.waveform, clip.rate), frame)
    page = "".join(content(Hearing("m", "t", [made], "jielong")))
    assert "begin as noise" in page
    assert page.count("<audio") == 3 + 1
    assert "board" not in page  # there is no order of tokens to see


def test_generator_and_tokenizer_are_heard(spoken: Path, tmp_path: Path) -> None:
    generator = trained(told(GENERATOR), tmp_path / "speaker", spoken)
    tokenizer = trained(TOKENIZER, tmp_path / "codec", spoken)
    missing: dict[str, str] = {}
    heard = listen(0, missing, [tokenizer, generator, "no-such-model"])
    assert [each.model for each in heard] == [generator, tokenizer]
    assert "no-such-model" in missing
    spoken_words, codec = heard
    assert [made.clip.caption for made in spoken_words.made] == ["tone & 6", "tone & 7"]  # held out
    assert [made.real.label for made in spoken_words.made if made.real is not None] == ["recording, Bob", "synthetic voice, Ann"]
    assert spoken_words.credits == ["Ann & Co, CC0"]
    assert codec.made[0].story is None
    assert codec.made[0].real is not None
    assert codec.made[0].clip.waveform.shape == codec.made[0].real.waveform.shape == (1, 76)
    round_trip = "".join(content(codec))
    assert round_trip.index("recording, Bob") < round_trip.index("from its tokens")
    text = "".join(content(spoken_words))
    assert text.count("<audio") == 4
    assert text.count('class="player"') == 2
    assert "board" in text
    assert "nobody said it" in text
    assert "synthetic voice, Ann" in text
    assert "tone &amp; 6" in text
    assert "Ann &amp; Co" in text
    assert "--text &#x27;tone &amp; 6&#x27;" in text
    heard_again, rate = read_audio(base64.b64decode(re.search(r"audio/wav;base64,([^\"]+)", text)[1]), "clip.wav")  # type: ignore[index]
    assert rate == 2_000
    assert float((heard_again - spoken_words.made[0].clip.waveform).abs().max()) < 1e-4


def test_a_model_that_is_told_a_voice_says_a_sentence_in_others(spoken: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("resemblyzer") is None:
        pytest.skip("the weights that tell voices apart are not installed")
    missing: dict[str, str] = {}
    (heard,) = listen(0, missing, [trained(GENERATOR, tmp_path / "run", spoken)])
    assert not missing
    assert [said.caption for _, said in heard.voices] == ["tone & 6"] * 2
    assert "In other voices" in "".join(content(heard))


def test_where_no_recording_is_here_the_voice_given_is_one_of_its_own(spoken: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("resemblyzer") is None:
        pytest.skip("the weights that tell voices apart are not installed")
    copy = copied(spoken, tmp_path)
    run = trained(GENERATOR.replace("length: 16", "length: 60"), tmp_path / "run", copy)
    shutil.rmtree(copy)
    missing: dict[str, str] = {}
    (heard,) = listen(4, missing, [run])
    assert not missing
    ((given, said),) = heard.voices
    assert (given.caption, said.caption) == (SENTENCES[-1], SENTENCES[0])
    assert torch.equal(given.waveform, load(run).generate(text=SENTENCES[-1], seed=5)[0].tensor)


def test_without_what_hears_a_voice_there_are_no_others(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        def embed_all(self, waveforms: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.nn.functional.normalize(torch.ones(len(waveforms), WIDTH), dim=1)

    def lacking() -> Encoder:
        raise WeightsError("a voice is heard by resemblyzer: install it")  # as the speaker encoder does

    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))  # what this encoder hears stays here
    monkeypatch.setattr(voice, "SpeakerEncoder", Encoder)
    run, missing = trained(GENERATOR, tmp_path / "run", spoken), dict[str, str]()
    monkeypatch.setattr(voice, "SpeakerEncoder", lacking)
    (heard,) = listen(0, missing, [run])
    assert len(heard.made) == 2
    assert not heard.voices
    assert "resemblyzer" in missing[f"other voices of {run}"]


def test_sound_that_is_described_is_made_from_words(spoken: Path, tmp_path: Path) -> None:
    copy = copied(spoken, tmp_path)
    described = re.sub("condition: .*", "condition: {text: {encoder: bytes}}", GENERATOR)
    run = trained(described, tmp_path / "run", copy)
    shutil.rmtree(copy)
    missing: dict[str, str] = {}
    (heard,) = listen(0, missing, [run])
    assert not missing
    assert heard.title == f"Sound, by {run}"
    assert [made.clip.caption for made in heard.made] == list(NAMES)
    assert "--text 'bass, hit'" in heard.command
    text = "".join(content(heard))
    assert text.count("<audio") == text.count('class="player"') == 3


def test_of_joined_sets_those_that_are_here_are_heard(spoken: Path, tmp_path: Path) -> None:
    copy = copied(spoken, tmp_path)
    run = trained(told(GENERATOR), tmp_path / "run", f"{copy},{spoken}")
    shutil.rmtree(copy)
    (heard,) = listen(0, {}, [run])
    assert [made.clip.caption for made in heard.made] == ["tone & 6", "tone & 7"]
    assert all(made.real is not None for made in heard.made)


def test_without_models_of_sound_the_page_has_no_section_of_it(spoken: Path, tmp_path: Path) -> None:
    bare = render(Report(machine="m", seed=0, again="jielong demo", prompts=["x"]))
    assert "<audio" not in bare
    page = demo.run(
        tmp_path / "demo",
        minutes=0,
        models=[],
        tokenizer="none-here",
        sounds=[trained(told(GENERATOR), tmp_path / "run", spoken), "gone"],
        prompts=["x"],
        console=Console(quiet=True),
    )
    text = page.read_text()
    assert "Words spoken, by" in text
    assert text.count("<audio") == 4
    assert "Without <code>gone</code>" in text


def test_where_the_set_is_gone_sentences_are_said_and_a_codec_says_why_not(spoken: Path, tmp_path: Path) -> None:
    copy = copied(spoken, tmp_path)
    names = [trained(told(GENERATOR).replace("length: 16", "length: 60"), tmp_path / "a", copy), trained(TOKENIZER, tmp_path / "b", copy)]
    shutil.rmtree(copy)
    missing: dict[str, str] = {}
    heard = listen(0, missing, names)
    assert [each.model for each in heard] == names[:1]
    assert heard[0].made[0].clip.caption == SENTENCES[0]
    assert heard[0].made[0].real is None
    assert heard[0].licence is None
    assert "weights under" not in "".join(content(heard[0]))
    own = Licence(
        "CC BY-SA 3.0", (Terms("set", "Ann & Co", "CC BY 3.0"), Terms("other", "Ann & Co", "CC BY 3.0"), Terms("set", "Bob", "MIT"))
    )
    (Path(names[0]) / LICENCE).write_text(own.to_json())
    (heard_again,) = listen(0, missing, names[:1])
    page = "".join(content(heard_again))
    assert "weights under CC BY-SA 3.0" in page
    assert ": Ann &amp; Co (CC BY 3.0); Bob (MIT)." in page
    assert "is not here" in missing[names[1]]
