"""MusicGen in a folder that transformers writes: logits of given codes in the delay pattern, with and without the text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import jielong
from jielong.conditions.text import Text
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.interop.checkpoints import import_weights
from jielong.interop.files import read
from jielong.interop.systems import musicgen as reader
from jielong.training.checkpoint import CheckpointError
from tokenizers import Tokenizer, models, pre_tokenizers

BOOKS, CODES, FRAMES, TEXTS = 4, 16, 10, ["slow piano", "fast drums and a slow bass"]


def folders(root: Path, **decoder: Any) -> Any:
    """A tiny MusicGen and its text encoder with a tokenizer of words, as the library writes them."""
    torch.manual_seed(0)
    words = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", "slow", "fast", "piano", "drums", "and", "a", "bass"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    text = transformers.T5Config(vocab_size=len(words), d_model=12, d_kv=6, d_ff=16, num_layers=2, num_heads=2)
    sound = {"num_filters": 4, "hidden_size": 8, "upsampling_ratios": [4, 4], "codebook_size": CODES, "sampling_rate": 1600}
    codec = transformers.EncodecConfig(**sound, target_bandwidths=[100 * BOOKS * 4 / 1000])
    given = {
        "vocab_size": CODES,
        "num_codebooks": BOOKS,
        "hidden_size": 16,
        "ffn_dim": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    inner = transformers.MusicgenDecoderConfig(**{**given, "pad_token_id": CODES, "bos_token_id": CODES, **decoder})
    model = transformers.MusicgenForConditionalGeneration(
        transformers.MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=inner)
    )
    for name, parameter in model.named_parameters():
        if "audio_encoder" not in name:
            nn.init.normal_(parameter, std=0.3)
    model.eval().save_pretrained(root / "musicgen")
    model.text_encoder.save_pretrained(root / "t5")
    wrapped.save_pretrained(root / "t5")
    return model


def imported(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(reader, "SECONDS", FRAMES / 100)
    monkeypatch.setattr(reader.musicgen, "__defaults__", (None, FRAMES / 100))
    import_weights("musicgen", [root / "musicgen", root / "t5"], root / "ours")
    return jielong.load(str(root / "ours"), "cpu")


def delayed(codes: Tensor) -> Tensor:
    """Codes ``(B, N, K)`` with a first step of none and codebook ``k`` behind by ``k``, ``(B K, N + K)``, as their decoder reads them."""
    batch, frames, books = codes.shape
    rows = torch.full((batch, books, frames + books), CODES)
    for book in range(books):
        rows[:, book, 1 + book : 1 + book + frames] = codes[..., book]
    return rows.flatten(0, 1)


@torch.no_grad()
def test_logits_are_those_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = folders(tmp_path)
    system = imported(tmp_path, monkeypatch)
    model = system.generator
    assert system.tokenizer.layout.positions == FRAMES
    codes = torch.randint(CODES, (2, FRAMES, BOOKS), generator=torch.Generator().manual_seed(1))
    numbers = [transformers.AutoTokenizer.from_pretrained(tmp_path / "t5")(text)["input_ids"] for text in TEXTS]
    rows = delayed(codes)[:, :-1]
    for item, row in enumerate(numbers):
        wanted = theirs(input_ids=torch.tensor([row]), decoder_input_ids=rows.unflatten(0, (2, BOOKS))[item]).logits
        states = model.training_states(
            Tokens(codes[item : item + 1], system.tokenizer.layout), model.condition.prepare([TEXTS[item]]), PerSampleRNG(0, [0])
        )
        found = model.head.scores(states.hidden)[0].transpose(0, 1)  # (K, N + K - 1, V)
        # States of texts are kept in half precision.
        torch.testing.assert_close(found, wanted.reshape(BOOKS, -1, CODES), rtol=2e-2, atol=2e-2)
    exact = model.condition(model.condition.prepare(TEXTS[:1]))
    null = model.condition.unconditional(1)
    encoded = (exact.states, torch.ones(exact.states.shape[:2], dtype=torch.long))
    for given, states, mask in ((exact, *encoded), (null, torch.zeros(1, 1, 16), torch.ones(1, 1, dtype=torch.long))):
        decoder = theirs.decoder(rows[:BOOKS], encoder_hidden_states=states, encoder_attention_mask=mask).logits
        monkeypatch.setattr(model.condition, "forward", lambda *_, given=given: given)
        hidden = model.training_states(Tokens(codes[:1], system.tokenizer.layout), TEXTS[:1], PerSampleRNG(0, [0])).hidden
        torch.testing.assert_close(model.head.scores(hidden)[0].transpose(0, 1), decoder.reshape(BOOKS, -1, CODES), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_most_likely_codes_are_those_of_its_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = folders(tmp_path)
    system = imported(tmp_path, monkeypatch)
    model = system.generator
    tokens = model.generate(TEXTS[:1], temperature=0.0, guidance=3.0).values
    given, null = model.condition(model.condition.prepare(TEXTS[:1])), model.condition.unconditional(1)
    rows = delayed(tokens)[:, :-1]
    both = []
    for each in (given, null):
        mask = torch.ones(each.states.shape[:2], dtype=torch.long)
        both.append(theirs.decoder(rows, encoder_hidden_states=each.states, encoder_attention_mask=mask).logits.reshape(BOOKS, -1, CODES))
    guided = (both[1] + 3.0 * (both[0] - both[1])).argmax(-1)
    for book in range(BOOKS):
        assert torch.equal(guided[book, book : book + FRAMES], tokens[0, :, book])


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("decoder", {"activation_function": "relu"}, "activation_function is 'relu', not 'gelu'"),
        ("decoder", {"audio_channels": 2}, "audio_channels is 2, not 1"),
        ("decoder", {"scale_embedding": True}, "scale_embedding is True, not False"),
        ("decoder", {"a_new_key": 1}, "a_new_key is not known"),
        ("decoder", {"num_codebooks": 2}, "the decoder draws 2 codebooks of 16 codes, and the codec has 4 of 16"),
        ("audio_encoder", {"model_type": "dac"}, "the codec is 'dac'"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(section: str, values: dict[str, object], named: str, tmp_path: Path) -> None:
    folders(tmp_path)
    path = tmp_path / "musicgen" / "config.json"
    config = json.loads(path.read_text())
    config[section] |= values
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as fault:
        reader.musicgen(read(tmp_path / "musicgen"), str(tmp_path / "t5"), FRAMES / 100)
    assert named in str(fault.value)


def test_bytes_have_no_projection() -> None:
    with pytest.raises(ValueError, match="projection is of a frozen encoder's states"):
        Text(encoder="bytes", projection=4).build()
