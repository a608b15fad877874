"""Whose data a model learned from, and the licence that follows for its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jielong.data.built import built_path
from jielong.data.licences import LICENCE, Licence, Terms, licence_of_weights, terms
from jielong.data.source import DataError
from jielong.data.table import write_table
from jielong.media.audio import encode_audio
from jielong.system import DESCRIPTION, zoo
from jielong_zoo.builders.prompts import VOICES


@pytest.fixture(autouse=True)
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of a clip a language and a clip a voice, as they are when they are built."""
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path))
    clip = {"audio": encode_audio(torch.zeros(1, 400), 4_000, ".wav"), "text": "one", "split": "train"}
    prompts = [
        {**clip, "language": language, "name": "one", "speaker": voice.speaker, "licence": voice.licence, "attribution": voice.attribution}
        for language, voice in VOICES.items()
    ]
    write_table(built_path("prompts"), prompts, item="audio", caption="text", label="speaker", key=("language", "name"))
    synthetic = [{**clip, "voice": voice, "name": voice} for voice in ("piper/joe", "kokoro/jm_kumo", "kokoro/jf_alpha")]
    write_table(built_path("synthetic-speech"), synthetic, item="audio", caption="text", label="voice", key=("name",))
    write_table(
        tmp_path / "own.parquet", [{**clip, "name": "a", "licence": "MIT"}], item="audio", caption="text", label="name", key=("name",)
    )


def test_terms_are_those_of_the_items_chosen() -> None:
    assert terms("prompts?language=it") == [Terms("prompts", VOICES["it"].attribution, "CC BY 3.0")]
    everyone = terms("prompts")
    assert {each.attribution for each in everyone} == {voice.attribution for voice in VOICES.values()}
    assert len(everyone) == 4  # one reads both English and Spanish
    joined = terms("prompts?language=en,synthetic-speech")
    assert joined == [*terms("prompts?language=en"), *terms("synthetic-speech")]
    assert [each.licence for each in joined] == ["CC BY-SA 3.0", "Apache-2.0", "MIT as packaged"]
    assert [each.licence for each in terms("sounds")] == ["CC0 1.0"]


@pytest.mark.parametrize(
    ("licences", "weights"),
    [
        ([], "Apache-2.0"),
        (["CC BY 3.0", "MIT", "CC0 1.0"], "Apache-2.0"),
        (["CC BY 3.0", "CC BY-SA 3.0"], "CC BY-SA 3.0"),
        (["CC BY-SA 3.0", "CC BY-SA 4.0", "Apache-2.0"], "CC BY-SA 4.0"),
        (["GPL-2.0", "CC0 1.0"], "GPL-2.0"),
    ],
)
def test_share_alike_data_ask_for_their_licence(licences: list[str], weights: str) -> None:
    assert licence_of_weights(Terms("set", "someone", licence) for licence in licences) == weights


def test_terms_that_are_unknown_or_at_odds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"own\.parquet does not say of every item whose it is"):
        terms(str(tmp_path / "own.parquet"))
    with pytest.raises(DataError, match=r"CC BY-SA 3\.0 and GPL-2\.0 are share-alike"):
        licence_of_weights([Terms("prompts", "a", "CC BY-SA 3.0"), Terms("spoken-words", "b", "GPL-2.0")])


def test_a_licence_lies_beside_a_model(tmp_path: Path) -> None:
    names = tuple(terms("prompts,synthetic-speech"))
    licence = Licence(licence_of_weights(names), names)
    assert Licence.beside(tmp_path) is None
    (tmp_path / LICENCE).write_text(licence.to_json())
    assert Licence.beside(tmp_path) == licence
    (tmp_path / LICENCE).write_text('{"weights": "MIT"}')
    with pytest.raises(DataError, match=r"licence\.json does not say whose data"):
        Licence.beside(tmp_path)


def test_licences_of_shipped_audio_models_match_their_cards() -> None:
    pytest.importorskip("jielong_zoo")
    audio = {name: folder for name, folder in zoo().items() if "rate" in json.loads((folder / DESCRIPTION).read_text())["media"]}
    assert audio
    for name, folder in audio.items():
        licence, card = Licence.beside(folder), (folder / "README.md").read_text()
        assert licence is not None, name
        sources = "\n".join(f"- {each}" for each in licence.learned_from)
        assert f"Licence of the weights: {licence.weights}. They were trained on\n\n{sources}\n\n" in card
