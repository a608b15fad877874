"""Whole files from which the hostile ones are made: small sets, checkpoints, a halted run, tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image
from typer.testing import CliRunner

from jielong.apps.cli import app

from .case import Material, brief
from .media_cases import whole_pictures
from .source_cases import sample_of, tar_of

COLOURS = {"red": (220, 40, 30), "green": (30, 180, 60)}


def run(*words: object) -> None:
    """Run a command that must succeed."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exit_code:
        raise RuntimeError(f"{words}: {done.stderr}")


def make(root: Path) -> Material:
    """Write everything."""
    material = Material(root)
    pictures, sounds = material.pictures / "set", material.sounds / "set"
    for split, count in (("train", 3), ("heldout", 1)):
        for name, colour in COLOURS.items():
            for number in range(count):
                path = pictures / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = Image.new("RGB", (16, 16), "white")
                image.paste(colour, (number, number, 8 + number + (split == "train"), 8 + number))
                image.save(path)
                path.with_suffix(".txt").write_text(f"a {name} square, number {number}")
        for number in range(count + 1):
            path = sounds / split / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            tone = 0.4 * np.sin(np.arange(4000) * (0.1 + number / 20 + (split == "train") / 50))
            soundfile.write(path, tone.astype(np.float32), 16000)
    _tables(material)
    run("train", "vqgan-tiny", "--data", pictures, "--out", material.tokenizer, *brief())
    run("train", "maskgit-tiny", "--data", pictures, "--out", material.painter, *brief())
    run("tokenize", material.tokenizer, "--data", pictures, "--out", root / "tokens.safetensors")
    for model in ("tokenizer", "painter"):
        kept = root / f"only-{model}" / "model"
        kept.mkdir(parents=True)
        for name in ("recipe.yaml", "model.json", "model.safetensors", "SHA256SUMS"):
            shutil.copyfile(root / model / name, kept / name)
    halted = material.halted / "run"
    halted.mkdir(parents=True)
    for name in ("recipe.yaml", "model.json", "metrics.jsonl"):
        shutil.copyfile(material.tokenizer / name, halted / name)
    state = next(material.tokenizer.glob("state-*"))
    shutil.copytree(state, halted / state.name)
    return material


def _tables(material: Material) -> None:
    """A Parquet file of pictures, files of other columns, and a shard."""
    data = [whole_pictures()[ending] for ending in ("png", "jpg", "png", "webp")]
    captions, labels = ["a", "b", "c", "d"], ["red", "red", "green", "green"]
    pq.write_table(pa.table({"image": data, "caption": captions, "label": labels}), material.parquet)
    material.wrong.mkdir()
    columns: dict[str, dict[str, pa.Array]] = {
        "numbers": {"image": pa.array([1, 2, 3, 4])},
        "no image": {"caption": pa.array(captions)},
        "nothing": {},
        "no rows": {"image": pa.array([], pa.binary())},
        "nulls": {"image": pa.array([None] * 4, pa.binary()), "caption": pa.array([None] * 4, pa.string())},
        "words": {"image": pa.array(["/etc/passwd", "a.png", "", "http://x/y.png"])},
        "lists": {"image": pa.array([[1], [2]]), "caption": pa.array([["a"], [None]])},
        "structs": {"image": pa.array([{"bytes": b"", "path": "../../x.png"}, {"bytes": data[0], "path": None}])},
        "captions of bytes": {"image": pa.array(data), "caption": pa.array([b"\xff\xfe", b"\0", b"a", b""])},
        "captions of numbers": {"image": pa.array(data), "caption": pa.array([1.5, float("nan"), float("inf"), None])},
        "long captions": {"image": pa.array(data), "caption": pa.array(["x" * 1_000_000] * 4)},
        "broken pictures": {"image": pa.array([b"", b"\0" * 100, b"%!PS-Adobe", data[0][:50]])},
    }
    for name, table in columns.items():
        pq.write_table(pa.table(table), material.wrong / f"{name}.parquet")
    (material.shard / "set").mkdir(parents=True)
    (material.shard / "set" / "good.tar").write_bytes(tar_of(sample_of("uvwxyz")))
