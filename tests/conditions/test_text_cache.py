"""The cache of a frozen encoder's states."""

from pathlib import Path

import pytest
import torch

from jielong.conditions.text import FrozenText, find_encoder

CAPTIONS = ["a red flag", "grinning face, Noto style", "a red flag", "", "two dogs", "woman farmer: dark skin tone"]


@pytest.fixture(scope="module")
def encoder() -> str:
    try:
        return find_encoder("minilm")
    except ValueError:
        pytest.skip("the text encoder is not installed")


def condition(encoder: str) -> FrozenText:
    return FrozenText(encoder, length=8, cfg_dropout=0.0)


def test_states_are_those_of_one_text_at_a_time(encoder: str, tmp_path: Path) -> None:
    together, alone = condition(encoder), condition(encoder)
    together.precompute_texts(CAPTIONS, tmp_path)
    texts = [text for text in CAPTIONS if text]
    given, wanted = together.prepare(texts), alone.prepare(texts)
    assert torch.equal(given.mask, wanted.mask)
    torch.testing.assert_close(given.states, wanted.states, atol=2e-3, rtol=2e-3)  # half precision


def test_a_second_run_encodes_nothing(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = condition(encoder), condition(encoder)
    first.precompute_texts(CAPTIONS, tmp_path)
    monkeypatch.setattr(FrozenText, "_load", lambda self: pytest.fail("encoded again"))
    second.precompute_texts(CAPTIONS, tmp_path)
    texts = [text for text in CAPTIONS if text]
    assert torch.equal(first.prepare(texts).states, second.prepare(texts).states)


def test_another_length_or_a_damaged_file_is_encoded_again(encoder: str, tmp_path: Path) -> None:
    condition(encoder).precompute_texts(CAPTIONS, tmp_path)
    (whole,) = tmp_path.iterdir()
    FrozenText(encoder, length=5, cfg_dropout=0.0).precompute_texts(CAPTIONS, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    again = condition(encoder)
    again.precompute_texts(CAPTIONS, tmp_path)
    assert whole.read_bytes() == content
    assert again.prepare(["two dogs"]).mask.sum() == 4
