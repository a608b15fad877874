"""Commands on continuous tokens: everything that was made for codes works with numbers, or says why it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from jielong.data.opening import open_data
from jielong.system import load
from jielong.training import token_cache as cache

from .conftest import brief, command, succeed


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A continuous tokenizer: 16 x 16 pixels, 4 x 4 tokens of 4 channels."""
    out = tmp_path_factory.mktemp("runs") / "numbers"
    succeed("train", "kl-tiny", "--data", pictures, "--out", out, *brief())
    return out


def test_a_trained_tokenizer_knows_its_scale(numbers: Path, pictures: Path) -> None:
    tokenizer = load(str(numbers)).tokenizer
    mean, log_variance = cache.tokenize(tokenizer, open_data(pictures, size=16, split="train")).values.chunk(2, dim=-1)
    total = (mean.square() + log_variance.exp()).mean((0, 1))
    torch.testing.assert_close(total, torch.ones(4), rtol=1e-3, atol=0)
    assert sorted(path.suffix for path in (numbers / "samples").iterdir()) == [".png"]


def test_a_token_file_holds_distributions_and_comes_back_as_pictures(numbers: Path, pictures: Path, tmp_path: Path) -> None:
    messages = succeed("tokenize", numbers, "--data", pictures, "--split", "heldout", "--out", tmp_path / "t.safetensors").stderr
    assert "6 pictures of 4 x 4 tokens of 4 channels, each with its log-variance" in messages
    succeed("detokenize", numbers, tmp_path / "t.safetensors", "--out", tmp_path / "back")
    system = load(str(numbers))
    expected = system.decode(system.encode(open_data(pictures, size=16, split="heldout").media([0])))[0]
    with Image.open(tmp_path / "back" / "0000.png") as image:
        found = torch.tensor(list(image.convert("RGB").tobytes())).view(16, 16, 3).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1.01 / 127.5)


def test_metrics_of_codes_are_omitted_with_a_reason(numbers: Path) -> None:
    measured = json.loads(succeed("evaluate", numbers, "--json").stdout)
    assert measured["psnr"] > 0
    assert "codebook_usage" not in measured
    assert measured["provenance"]["omitted"]["codebook_usage"] == "the tokens are continuous"


def test_a_dry_run_tells_numbers_and_no_bits() -> None:
    output = succeed("train", "kl-tiny", "--dry-run").stdout
    assert "channels per position" in output
    assert "bits per item" not in output


def test_a_generator_of_numbers_trains_from_a_file_as_from_the_cache_and_is_traced(numbers: Path, pictures: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "painter.yaml"
    parts = {
        "data": {"set": str(pictures), "size": 16},
        "tokenizer": {"checkpoint": str(numbers)},
        "condition": {"class": {"width": 16}},
        "order": {"masked": {"steps": 3, "choose": "random"}},
        "backbone": {"transformer": {"layers": 1, "width": 16, "heads": 2}},
        "head": {"gaussian_mixture": {"components": 2}},
        "train": {"samples": 16, "batch": 8, "warmup": 8, "ema": 0.5},
    }
    recipe.write_text(json.dumps(parts))
    succeed("tokenize", numbers, "--data", pictures, "--out", tmp_path / "t.safetensors")
    succeed("train", recipe, "--out", tmp_path / "cached")
    succeed("train", recipe, "--out", tmp_path / "file", "--tokens", tmp_path / "t.safetensors")
    assert (tmp_path / "cached/model.safetensors").read_bytes() == (tmp_path / "file/model.safetensors").read_bytes()
    succeed("generate", tmp_path / "cached", "--class", "red", "--out", tmp_path / "drawn", "--trace")
    trace = json.loads((tmp_path / "drawn/trace.json").read_text())
    assert trace["layout"]["vocabulary"] is None
    drawn = [token for step in trace["steps"] for token in step["pictures"][0]["tokens"]]
    assert (len(drawn), len(drawn[0])) == (16, 4)
    refused = command("train", recipe, "--out", tmp_path / "no", "--set", "head=softmax")
    assert refused.exit_code == 1
    assert "a softmax head needs discrete tokens" in refused.stderr
