"""Conditions of speech serve pictures too: spelt captions, and captions beside classes, trained and asked for by command."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image

from jielong.system import load

from .conftest import brief, command, succeed

SPELT = "{characters: {width: 16, layers: 1, heads: 2}}"
BOTH = "{composite: {parts: {characters: {width: 16, layers: 1, heads: 2}, class: {width: 8}}, width: 16}}"


def test_spelt_captions(pictures: Path, tmp_path: Path) -> None:
    succeed("train", "maskgit-tiny", "--data", pictures, "--out", tmp_path / "run", *brief(f"condition={SPELT}"))
    succeed("generate", tmp_path / "run", "--text", "A réd square", "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 100
    refused = command("generate", tmp_path / "run", "--text", "红", "--out", tmp_path / "b.png")
    assert refused.exit_code != 0
    assert "CJK UNIFIED IDEOGRAPH" in refused.stderr
    assert not (tmp_path / "b.png").exists()
    refused = command("generate", tmp_path / "run", "--text", "red", "--seconds", "2", "--out", tmp_path / "b.png")
    assert "takes --text, not --seconds" in refused.stderr


def test_captions_beside_classes(pictures: Path, tmp_path: Path) -> None:
    succeed("train", "maskgit-tiny", "--data", pictures, "--out", tmp_path / "run", *brief(f"condition={BOTH}"))
    succeed("generate", tmp_path / "run", "--text", "a red square", "--class", "red", "-n", 2, "--out", tmp_path / "drawn")
    succeed("evaluate", tmp_path / "run", "--data", pictures)
    drawn = [path.read_bytes() for path in sorted((tmp_path / "drawn").glob("*.png")) if path.stem.isdigit()]
    assert (tmp_path / "drawn" / "sheet.png").exists()
    system = load(str(tmp_path / "run"))

    def pixels(kind: str) -> list[bytes]:
        pictures = system.generate(text=["a red square"] * 2, classes=[kind] * 2, seed=0)
        return [picture.image.tobytes() for picture in pictures]

    assert [Image.open(io.BytesIO(each)).tobytes() for each in drawn] == pixels("red")
    assert system.generator is not None
    for parameter in system.generator.parameters():  # after two steps no picture depends on its class yet
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    assert pixels("red") != pixels("blue")


def test_a_missing_column_is_reported_before_training(pictures: Path, tmp_path: Path) -> None:
    unread = command("train", "maskgit-tiny", "--data", pictures, "--out", tmp_path, *brief("condition={characters: {alphabet: abc}}"))
    assert "texts cannot be read. The first:" in unread.stderr
    silent = command("train", "maskgit-tiny", "--data", pictures, "--out", tmp_path, *brief("condition={length: {}}"))
    assert "holds no sound" in silent.stderr
