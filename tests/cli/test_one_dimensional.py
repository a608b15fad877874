"""Tokens in one dimension through every command: trained on a folder's tokenizer, generated from, traced, drawn, and standing alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from jielong.apps.commands.trace import Recorder
from jielong.apps.demo import markup
from jielong.apps.demo.trace_view import token_grid, trace
from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import StepEvent
from jielong.system import load
from jielong.training.checkpoint import CheckpointError

from .conftest import brief, succeed

SIZE = "{layers: 1, width: 16, heads: 2}"


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory, pictures: Path, tokenizer: Path) -> Path:
    """Six tokens a picture, by a run of a step in each stage; the folder of its proxy is gone."""
    folder = tmp_path_factory.mktemp("sequence")
    shutil.copytree(tokenizer, folder / "proxy-run")
    settings = f"proxy: {folder}/proxy-run, tokens: 6, finetune_at: 8, encoder: {SIZE}, decoder: {SIZE}"
    words = ("data.size=16", f"tokenizer={{titok: {{{settings}, dim: 4, quantizer: {{vector: {{codebook_size: 16}}}}}}}}")
    succeed("train", "titok-tiny", "--data", pictures, "--out", folder / "titok", *brief(*words))
    (folder / "proxy-run").rename(folder / "elsewhere")
    return folder / "titok"


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory, pictures: Path, sequence: Path) -> Path:
    """A masked generator of those tokens; the folder of its tokenizer is gone."""
    folder = tmp_path_factory.mktemp("writer")
    shutil.copytree(sequence, folder / "titok")
    words = ("data.size=16", f"tokenizer={{checkpoint: {folder}/titok}}")
    succeed("train", "titok-maskgit-tiny", "--data", pictures, "--out", folder / "writer", *brief(*words))
    (folder / "titok").rename(folder / "elsewhere")
    return folder / "writer"


def test_a_run_learns_its_own_losses_and_then_the_recipes(sequence: Path) -> None:
    first, second = (json.loads(line) for line in (sequence / "metrics.jsonl").read_text().splitlines())
    assert {"proxy", "commitment"} < set(first)
    assert "regression" not in first
    assert "regression" in second
    assert "proxy" not in second
    summary = json.loads((sequence / "summary.json").read_text())
    assert summary["evaluation"]["heldout_psnr"] > 0


def test_a_checkpoint_keeps_what_it_was_built_on(sequence: Path, writer: Path, tmp_path: Path) -> None:
    system = load(str(sequence))
    assert system.tokenizer.layout == Layout((6,), 1, 16, axes=("latents",))
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    other = load(str(writer)).tokenizer
    assert torch.equal(other.encode(pictures).values, system.encode(pictures).values)
    assert torch.equal(other.decode(other.encode(pictures)), system.decode(system.encode(pictures)))
    shutil.copytree(sequence, tmp_path / "alone")
    shutil.rmtree(tmp_path / "alone/stages/proxy")
    with pytest.raises(CheckpointError, match=r"there is no model called .*proxy-run"):
        load(str(tmp_path / "alone"))


def test_sizes_are_reported(sequence: Path) -> None:
    shown = succeed("show", sequence).stdout  # its recipe names a folder that is gone
    assert "finetune_at" in shown
    assert "without derived sizes: there is no model called" in " ".join(shown.split()) + " ".join(succeed("show", sequence).stderr.split())


def test_a_picture_is_traced_token_by_token(writer: Path, tmp_path: Path) -> None:
    succeed("generate", writer, "--text", "a red square", "--steps", 3, "--trace", "--out", tmp_path / "t")
    trace = json.loads((tmp_path / "t/trace.json").read_text())
    assert trace["layout"]["grid"] == [6]
    places = [place for step in trace["steps"] for place in step["pictures"][0]["positions"]]
    assert sorted(places) == list(range(6))
    film = Image.open(tmp_path / "t/trace.webp")
    film.seek(film.n_frames - 1)  # type: ignore[attr-defined]
    drawn = Image.open(tmp_path / "t/0000.png").convert("RGB").resize((32, 32), Image.Resampling.NEAREST)
    assert film.convert("RGB").crop((2, 2, 34, 34)).tobytes() == drawn.tobytes()


def test_unknown_tokens_are_those_of_a_grey_picture(writer: Path) -> None:
    system = load(str(writer))
    with torch.no_grad():
        for parameter in system.tokenizer.parameters():  # hardly trained, it would draw one picture from all tokens
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    recorder, known = Recorder(system), []

    def on_step(moment: StepEvent) -> None:
        recorder(moment)
        known.append((moment.known, moment.values))

    drawn = system.generate(text=["a red square"] * 8, steps=3, on_step=on_step)
    frames = recorder.frames(drawn)
    grey = system.encode(torch.zeros(1, 3, 16, 16)).values
    for frame, (seen, values) in zip(frames, known, strict=True):
        tokens = Tokens(torch.where(seen[..., None], values, grey), system.tokenizer.layout)
        assert frame.tobytes() == drawn.like(system.decode(tokens)).sheet(scale=2).tobytes()
    assert len({frame.tobytes() for frame in frames}) == 3
    assert frames[-1].tobytes() == drawn.sheet(scale=2).tobytes()


def test_a_trace_of_1d_tokens_has_a_grid_and_covers_no_region(writer: Path) -> None:
    system = load(str(writer))
    (item,) = trace(system, ["a red square"], ["red"])
    assert (item.grid, len(item.codes), item.spatial) == ((2, 3), 6, False)
    assert '"spatial":false' in markup.player([item])
    blank = system.encode(torch.ones(1, 3, 16, 16))
    assert blank.values.shape == (1, 6, 1)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Layout((8, 4)), (8, 4)),
        (Layout((32,)), (4, 8)),
        (Layout((64,)), (8, 8)),
        (Layout((7,)), (1, 7)),
        (Layout((2, 2), scales=((1, 1), (2, 2))), (1, 5)),
    ],
)
def test_tokens_are_drawn_in_whole_rows(layout: Layout, shape: tuple[int, int]) -> None:
    assert token_grid(layout) == shape
    assert shape[0] * shape[1] == layout.positions
