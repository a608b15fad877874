"""Texts longer than a model's longest sound: cut where a reader would pause, spoken piece by piece, and joined."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import jielong
from jielong.apps.cli import app
from jielong.system.long_text import PAUSE, cut, joined, sentences

FIVE = [
    "The boat left before dawn.",
    "It rained all the long day.",
    "Nobody spoke on the way!",
    "Was it the cold wind?",
    "They slept until noon.",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Green paid 3.50 dollars, e.g. for tea. He left.", ["Dr. Green paid 3.50 dollars, e.g. for tea.", "He left."]),
        ("At 5 p.m. it rained! Why? Nobody knows.", ["At 5 p.m. it rained!", "Why?", "Nobody knows."]),
        ("今天天气很好。我们去公园吧！你呢？", ["今天天气很好。", "我们去公园吧！", "你呢？"]),  # noqa: RUF001
        ("雨です。傘はありますか？", ["雨です。", "傘はありますか？"]),  # noqa: RUF001
        ("no mark at all", ["no mark at all"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_a_text_is_cut_no_finer_than_needed() -> None:
    text = "One two. Three four, five six, seven. Eight nine ten eleven."

    def pieces(limit: int) -> list[str]:
        return cut(text, lambda piece: len(piece) <= limit)

    assert pieces(60) == [text]
    assert pieces(28) == ["One two.", "Three four, five six, seven.", "Eight nine ten eleven."]
    assert pieces(22) == ["One two.", "Three four, five six,", "seven.", "Eight nine ten eleven."]
    assert pieces(11) == ["One two.", "Three four,", "five six,", "seven.", "Eight nine", "ten eleven."]
    assert cut("今天天气很好，我们去公园。", lambda piece: len(piece) <= 4) == ["今天天气", "很好，", "我们去公", "园。"]  # noqa: RUF001
    assert cut("今天ab cd好", lambda piece: len(piece) <= 3) == ["今天", "ab", "cd好"]
    assert cut("오늘은 날씨가 좋습니다, 그래서 갑니다.", lambda piece: len(piece) <= 8) == ["오늘은 날씨가", "좋습니다,", "그래서 갑니다."]
    assert pieces(6)[-1] == "eleven."  # a word stays whole


@settings(max_examples=100, deadline=None)
@given(st.text("ab ,.;!? 。，", min_size=1, max_size=80), st.integers(1, 30))  # noqa: RUF001
def test_nothing_of_a_text_is_lost_or_repeated(text: str, limit: int) -> None:
    runs = re.findall(r"[^\s\u2e80-\U0010ffff]+", text)
    limit = max([limit, *map(len, runs)])  # a longer word stays whole
    pieces = cut(text, lambda piece: len(piece) <= limit)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert max(map(len, pieces), default=0) <= limit


def test_joined_clips_have_the_length_of_their_parts_and_pauses() -> None:
    clips = [torch.full((1, size), float(size)) for size in (30, 50, 20, 7)]
    sound, samples = joined(clips, [0, 0, 1, 1], rate=100)
    pause = round(PAUSE * 100)
    assert samples == [30 + pause + 50, 20 + pause + 7]
    assert sound.shape == (2, 1, samples[0])
    assert not sound[0, 0, 30 : 30 + pause].any()
    assert torch.equal(sound[0, 0, 30 + pause :], clips[1][0])
    assert not sound[1, 0, samples[1] :].any()


def test_five_sentences_are_five_single_generations_and_the_stream_is_the_whole() -> None:
    system, text = jielong.load("sled-speech"), " ".join(FIVE)
    with pytest.warns(UserWarning, match="6 s that sled-speech says at once: 1 text in 5 pieces, joined with pauses of 0.2 s"):
        whole = system.generate(text=text, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = [system.generate(text=sentence, seed=3)[0].tensor for sentence in FIVE]
    pause = round(PAUSE * system.tokenizer.media.sample_rate)
    assert whole[0].tensor.shape[1] == sum(each.shape[1] for each in alone) + 4 * pause
    assert whole.captions == [text]
    expected, _ = joined(alone, [0] * 5, system.tokenizer.media.sample_rate)
    torch.testing.assert_close(whole.tensor, expected, rtol=0, atol=1e-3)
    with pytest.warns(UserWarning, match="in 5 pieces"):
        stream = list(system.stream(text=text, seed=3))
    torch.testing.assert_close(torch.cat(stream, dim=2), expected, rtol=0, atol=1e-3)


def test_items_beside_a_long_text_and_words_without_an_end() -> None:
    system = jielong.load("sled-speech")
    with pytest.warns(UserWarning, match="2 texts in 6 pieces"):
        both = system.generate(text=[" ".join(FIVE), FIVE[0]], seed=1)
    short = system.generate(text=["Hello.", FIVE[0]], seed=1)[1].tensor
    torch.testing.assert_close(both[1].tensor, short, rtol=0, atol=1e-3)
    with pytest.warns(UserWarning, match=r"1 of 5 items are cut at 150 tokens, the longest"):
        system.generate(text="a" * 300 + " bc" * 40)
    with pytest.warns(UserWarning, match="pieces"), pytest.raises(ValueError, match="one at a time"):
        system.stream(text=[" ".join(FIVE), "Hello."])


def test_a_text_file_is_read_by_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes("\ufeffWe met at noon.\nIt rained\n all day.".encode())

    def generate(name: str, *words: object) -> Result:
        return CliRunner().invoke(app, ["generate", "sled-speech", *map(str, words), "--device", "cpu", "--out", str(tmp_path / name)])

    assert generate("a.wav", "--text-file", tmp_path / "long.txt").exit_code == 0
    assert generate("b.wav", "--text", "We met at noon. It rained all day.").exit_code == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    both = generate("c.wav", "--text", "a", "--text-file", tmp_path / "long.txt")
    assert both.exit_code == 2
    assert "not both" in both.stderr
