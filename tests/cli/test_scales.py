"""Tokens of several scales through every command: train, tokenize, generate with a trace, smooth, evaluate, and the demo's item."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jielong.apps.demo.trace_view import trace
from jielong.data.opening import open_data
from jielong.media.images import to_bytes
from jielong.system import System, load

from .conftest import brief, command, succeed


@pytest.fixture(scope="module")
def cutter(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A tokenizer of 1, 4, 9 and 16 tokens a picture."""
    out = tmp_path_factory.mktemp("runs") / "cutter"
    succeed("train", "var-tokenizer-tiny", "--data", pictures, "--out", out, *brief())
    return out


@pytest.fixture(scope="module")
def sketcher(tmp_path_factory: pytest.TempPathFactory, pictures: Path, cutter: Path) -> Path:
    """A next-scale generator of its tokens from words."""
    out = tmp_path_factory.mktemp("runs") / "sketcher"
    succeed("train", "var-tiny", "--data", pictures, "--out", out, *brief(f"tokenizer={{checkpoint: {cutter}}}"))
    return out


def test_the_built_in_recipes_train(tmp_path: Path) -> None:
    succeed("train", "var-tokenizer-tiny", "--out", tmp_path / "tokenizer")
    lines = [json.loads(line) for line in (tmp_path / "tokenizer" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]
    assert any("codebook_usage_4x4" in line for line in lines)
    succeed("train", "var-tiny", "--out", tmp_path / "var", "--set", f"tokenizer={{checkpoint: {tmp_path / 'tokenizer'}}}")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "var" / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]


def test_an_evaluation_reports_each_scale(cutter: Path, pictures: Path) -> None:
    report = json.loads(succeed("evaluate", cutter, "--data", pictures, "--json").stdout)
    figures = report["provenance"]["figures"]
    assert list(figures["codebook_usage"]["scales"]) == ["1x1", "2x2", "3x3", "4x4"]
    after = figures["residual"]["after"]
    assert (len(after), after[-1]) == (4, report["residual"])
    system = load(str(cutter))
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    rebuilt = system.tokenizer.quantizer.decode(system.encode(pixels).values)  # type: ignore[operator, union-attr]
    wanted = system.tokenizer._features(pixels)  # type: ignore[operator]
    expected = (rebuilt - wanted).square().mean() / wanted.square().mean()
    torch.testing.assert_close(system.tokenizer.residuals(pixels)[-1], expected)  # type: ignore[index]


def test_a_dry_run_names_the_scales(cutter: Path, pictures: Path) -> None:
    done = succeed("train", "var-tiny", "--data", pictures, "--dry-run", "--set", f"tokenizer={{checkpoint: {cutter}}}")
    assert "1x1, 2x2, 3x3, 4x4" in done.stdout + done.stderr


def test_a_tokenizer_on_one_grid_is_refused(tokenizer: Path, pictures: Path, tmp_path: Path) -> None:
    result = command("train", "var-tiny", "--data", pictures, "--out", tmp_path, *brief(f"tokenizer={{checkpoint: {tokenizer}}}"))
    assert result.exit_code != 0
    assert "multi_scale" in " ".join(result.stderr.split())


def test_tokens_go_to_a_file_and_back(cutter: Path, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens.safetensors"
    succeed("tokenize", cutter, "--data", pictures, "--out", file)
    succeed("detokenize", cutter, file, "--out", tmp_path / "back", "-n", 2)
    system = load(str(cutter))
    wanted = system.decode(system.encode(open_data(pictures, size=16, split="train").media([0, 1])))
    for path, picture in zip(sorted((tmp_path / "back").glob("0*.png")), to_bytes(wanted), strict=True):
        with Image.open(path) as image:
            assert np.abs(np.asarray(image, int).transpose(2, 0, 1) - picture.numpy().astype(int)).max() <= 1


def test_a_trained_generator_stores_nothing_of_its_tokenizer_and_finds_it_again(sketcher: Path) -> None:
    system = load(str(sketcher))
    assert system.generator is not None
    tokens = system.generate_tokens(["a red square"], seed=1)
    again = load(str(sketcher)).generate_tokens(["a red square"], seed=1)
    assert tokens.values.shape == (1, 30, 1)
    assert torch.equal(tokens.values, again.values)
    assert torch.equal(system.generator.embedding.codes, system.tokenizer.quantizer.codebook.current)  # type: ignore[operator, union-attr]


def test_a_trace_has_a_frame_a_scale(sketcher: Path, tmp_path: Path) -> None:
    succeed("generate", sketcher, "--text", "a blue square", "--out", tmp_path, "--trace", "--guidance", "ramp:2")
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert trace["layout"]["scales"] == [[1, 1], [2, 2], [3, 3], [4, 4]]
    assert [len(step["pictures"][0]["positions"]) for step in trace["steps"]] == [1, 4, 9, 16]
    assert [step["guidance"] for step in trace["steps"]] == pytest.approx([1, 4 / 3, 5 / 3, 2])
    with Image.open(tmp_path / "trace.webp") as film:
        assert getattr(film, "n_frames", 1) <= 4


def test_smooth_sampling_makes_pictures_but_no_trace(sketcher: Path, tmp_path: Path) -> None:
    succeed("generate", sketcher, "--text", "a blue square", "--out", tmp_path / "smooth.png", "--soft-codes")
    assert (tmp_path / "smooth.png").exists()
    assert command("generate", sketcher, "--text", "x", "--out", tmp_path, "--soft-codes", "--trace").exit_code != 0


def test_the_demos_trace_ends_with_the_image(sketcher: Path) -> None:
    system: System = load(str(sketcher))
    (item,) = trace(system, ["a green square"], ["a green square"])
    assert len(item.frames) == 4
    assert item.grid[0] * item.grid[1] == len(item.codes) == 30
    assert not item.spatial
    assert torch.equal(item.picture, system.decode(system.generate_tokens(["a green square"], batch=1))[0])


def test_evaluation_reports_the_usage_of_each_scale(cutter: Path, pictures: Path) -> None:
    report = json.loads(succeed("evaluate", cutter, "--data", pictures, "--json").stdout)
    scales = report["provenance"]["figures"]["codebook_usage"]["scales"]
    assert set(scales) == {"1x1", "2x2", "3x3", "4x4"}
    assert all(0 < share <= report["codebook_usage"] for share in scales.values())


def test_evaluation_draws_codes(sketcher: Path, pictures: Path) -> None:
    result = succeed("evaluate", sketcher, "--data", pictures, "--json")
    assert "seconds" in json.loads(result.stdout)
