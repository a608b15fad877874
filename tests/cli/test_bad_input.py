"""Whatever is wrong with the input: one clear sentence on standard error, a non-zero exit, and nothing half-written."""

from __future__ import annotations

import csv
import errno
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import brief, command, succeed


def refused(*words: object, says: tuple[str, ...], code: int = 1) -> str:
    """Run a command that must fail with a sentence that has all those words in it."""
    result = command(*words)
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    plain = " ".join(result.stderr.replace("│", " ").split())
    for word in says:
        assert word in plain, plain
    return plain


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def copied(checkpoint: Path, to: Path) -> Path:
    shutil.copytree(checkpoint, to)
    return to


# --- recipes --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.lrr=1", ("unknown key 'train.lrr'", "did you mean 'lr'")),
        ("backbone.transformer.depth=3", ("unknown key",)),
        ("trian.lr=1", ("unknown key 'trian'", "did you mean 'train'")),
        ("head=sofmax", ("no head called 'sofmax'", "did you mean 'softmax'")),
        ("tokenizer={vq: {}}", ("needs a trained tokenizer", "checkpoint")),
        ("losses={regression: {}}", ("remove `losses`",)),
        ("train.samples=0", ("train.samples", "greater than")),
        ("lr", ("--set takes a.b=value",)),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(override: str, says: tuple[str, ...], pictures: Path, tmp_path: Path) -> None:
    refused("train", "maskgit-tiny", "--data", pictures, "--set", override, "--out", tmp_path / "run", says=says)
    assert everything(tmp_path) == set()


def test_a_recipe_file_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: maskgit-tiny\ntrain:\n  batchh: 3\n")
    refused("train", file, "--out", tmp_path / "run", says=("mine.yaml, line 3", "unknown key 'train.batchh'", "did you mean 'batch'"))
    file.write_text("extends: [maskgit\n")
    refused("show", file, says=("mine.yaml is not YAML",))
    assert everything(tmp_path) == {"mine.yaml"}


def test_a_misspelt_recipe_or_model_is_answered_with_the_nearest(painter: Path) -> None:
    refused("train", "maskgit-tinny", says=("no recipe called 'maskgit-tinny'", "did you mean 'maskgit-tiny'"))
    refused("generate", "maskgit-emojy", says=("no model called 'maskgit-emojy'",))
    refused("evaluate", painter / "missing", says=("no model called",))


def test_usage_errors_exit_with_2(painter: Path, tmp_path: Path) -> None:
    refused("train", "maskgit-tiny", "--budget", "soon", says=("10m",), code=2)
    refused("generate", painter, "--text", "x", "--guidance", "very", says=("linear:3",), code=2)
    refused("generate", painter, "--text", "x", "--top-p", "2", says=("probability",), code=2)
    refused("tokenize", painter, "--data", "emoji", "--out", tmp_path / "tokens.pt", says=(".safetensors",), code=2)
    assert command("paint").exit_code == 2


# --- checkpoints ----------------------------------------------------------------------------------------------------------------------


def test_truncated_weights(painter: Path, tmp_path: Path) -> None:
    weights = copied(painter, tmp_path / "cut") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused("generate", tmp_path / "cut", "--text", "x", "--out", tmp_path / "out", says=("model.safetensors", "truncated"))
    assert not (tmp_path / "out").exists()


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_is_not_opened(writer: str, painter: Path, tmp_path: Path) -> None:
    weights = copied(painter, tmp_path / "pickled") / "model.safetensors"
    bomb = Bomb(tmp_path / "mark")
    if writer == "torch":
        torch.save(bomb, weights)
    else:
        weights.write_bytes(pickle.dumps(bomb))
    refused("evaluate", tmp_path / "pickled", says=("pickle", "safetensors"))
    assert not (tmp_path / "mark").exists()


def test_an_unfinished_checkpoint_and_another_tokenizer(tokenizer: Path, chain: Path, tmp_path: Path) -> None:
    (copied(tokenizer, tmp_path / "young") / "model.safetensors").unlink()
    refused("evaluate", tmp_path / "young", says=("has no model.safetensors", "go on training"))
    swapped = copied(chain, tmp_path / "swapped")
    description = swapped / "model.json"
    description.write_text(description.read_text().replace('"tokenizer_sha256": "', '"tokenizer_sha256": "0'))
    refused("generate", swapped, "--class", "red", says=("another tokenizer",))


def test_tokens_of_another_tokenizer(pictures: Path, tokenizer: Path, painter: Path, tmp_path: Path) -> None:
    succeed("tokenize", tokenizer, "--data", pictures, "--out", tmp_path / "t.safetensors")
    refused("detokenize", painter, tmp_path / "t.safetensors", "--out", tmp_path / "back", says=("another tokenizer",))
    refused("detokenize", tokenizer, tokenizer / "recipe.yaml", "--out", tmp_path / "back", says=("not a usable token file",))
    assert everything(tmp_path) == {"t.safetensors"}


def test_pixels_of_other_levels_are_another_tokenizer(pictures: Path, painter: Path, tmp_path: Path) -> None:
    succeed("train", "maskgit-tiny", "--data", pictures, "--out", tmp_path / "four", *brief("tokenizer.pixels.levels=4"))
    succeed("tokenize", tmp_path / "four", "--data", pictures, "--out", tmp_path / "t.safetensors")
    refused("detokenize", painter, tmp_path / "t.safetensors", "--out", tmp_path / "back", says=("another tokenizer",))
    assert not (tmp_path / "back").exists()


# --- conditions -----------------------------------------------------------------------------------------------------------------------


def test_words_where_classes_are_wanted(chain: Path, painter: Path, tokenizer: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    refused("generate", chain, "--text", "a cat", *out, says=("takes --class, not --text",))
    refused("generate", chain, "--class", "gren", *out, says=("did you mean 'green'",))
    refused("generate", painter, "--text", " ", *out, says=("needs words",))
    refused("generate", tokenizer, *out, says=("is a tokenizer",))
    refused("generate", painter, "--guidance", "3", *out, says=("guidance needs a condition",))
    assert everything(tmp_path) == set()


# --- data -----------------------------------------------------------------------------------------------------------------------------


def test_no_pictures_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = ("--out", tmp_path / "run")
    refused("train", "vqgan-tiny", "--data", tmp_path / "empty", *out, says=("empty", "holds no pictures"))
    refused("data", "inspect", tmp_path / "empty", says=("holds no pictures",))
    message = refused("train", "vqgan-tiny", "--data", "emojy", *out, says=("emojy", "did you mean 'emoji'"))
    assert message.startswith("error:"), "nothing is said to be training"
    assert everything(tmp_path) == {"empty"}


def test_only_broken_pictures(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for place in range(3):
        (tmp_path / "set" / f"{place}.png").write_bytes(b"\x89PNG\r\n\x1a\nbut no more")
    refused("train", "vqgan-tiny", "--data", tmp_path / "set", "--out", tmp_path / "run", says=("no usable picture", "3 broken"))
    assert not (tmp_path / "run").exists()


def test_a_broken_picture_is_named_and_training_goes_on(pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "set")
    damaged = tmp_path / "set/train/red/3.png"
    damaged.write_bytes(damaged.read_bytes()[:-30])  # the header is whole, the pixels are not
    result = succeed("train", "vqgan-tiny", "--data", tmp_path / "set", "--out", tmp_path / "run", *brief("train.samples=48"))
    assert "red/3.png" in result.stderr
    assert (tmp_path / "run/model.safetensors").exists()


def test_captions_that_the_recipe_needs_are_missing(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for place, path in enumerate(sorted(pictures.rglob("*.png"))[:4]):
        shutil.copy(path, tmp_path / "set" / f"{place}.png")
    refused("train", "maskgit-tiny", "--data", tmp_path / "set", "--out", tmp_path / "run", says=("no captions", ".txt"))
    assert not (tmp_path / "run").exists()


# --- the disk -------------------------------------------------------------------------------------------------------------------------


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_sheet_that_cannot_be_written_names_its_option(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    says = (f"{tmp_path / 'file'} is a file", "choose another place with --sheet")
    refused("data", "inspect", pictures, "--sheet", tmp_path / "file" / "sheet.png", says=says)


def test_a_full_disk_while_pictures_are_written(painter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace
    calls = []

    def fills(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) > 2:
            full()
        replace(source, target)

    monkeypatch.setattr(os, "replace", fills)
    words = ("generate", painter, "--text", "a red square", "-n", 4)
    refused(*words, "--out", tmp_path / "a" / "b", says=("No space left on device", "free some space"))
    assert len(calls) == 3
    assert everything(tmp_path) == set()


def test_a_full_disk_leaves_what_was_there(painter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed("generate", painter, "--text", "a red square", "-n", 2, "--out", tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in everything(tmp_path)}
    monkeypatch.setattr(os, "replace", full)
    refused("generate", painter, "--text", "a blue square", "-n", 2, "--seed", 5, "--out", tmp_path, says=("No space left",))
    assert {name: (tmp_path / name).read_bytes() for name in everything(tmp_path)} == before


def test_a_full_disk_while_training_and_tokenizing(
    pictures: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", full)
    refused("train", "vqgan-tiny", "--data", pictures, "--out", tmp_path / "run", *brief(), says=("No space left",))
    refused("tokenize", tokenizer, "--data", pictures, "--out", tmp_path / "t.safetensors", says=("No space left",))
    assert {name for name in everything(tmp_path) if not (tmp_path / name).is_dir()} == set()


# --- the way errors are told ----------------------------------------------------------------------------------------------------------


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JIELONG_DEBUG", "1")
    result = command("generate", "no-such-model")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "CheckpointError"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ModuleNotFoundError("x", name="torchmetrics.image"), "pip install 'jielong[evaluate]'"),
        (ModuleNotFoundError("x", name="nothing"), "'nothing' is not installed"),
        (OSError(errno.EACCES, "Permission denied", "/root/x"), "/root/x: Permission denied"),
        (RuntimeError("CUDA out of memory. Tried"), "not enough memory"),
        (KeyError("x"), "unexpected error: KeyError: 'x'"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (csv.Error("field larger than field limit (131072)"), "damaged or of another format: field larger"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "damaged or of another format: 'utf-8' codec"),
    ],
)
def test_sentences(error: BaseException, says: str) -> None:
    from jielong.apps.commands.errors import sentence

    assert says in sentence(error)


class Panic(BaseException):
    """As libraries in Rust raise."""


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (AttributeError("no attribute 'x'"), 1, "unexpected error: AttributeError"),
        (Panic("index out of bounds"), 1, "unexpected error: Panic"),
        (MemoryError(), 1, "not enough memory; try"),
        (AssertionError("\x1b[31m" + "y" * 10_000), 1, "\\x1b[31my"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_any_exception_is_one_line_and_its_traceback_a_file(
    error: BaseException, code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path))
    monkeypatch.setattr("jielong.apps.commands.training.load", fail)
    result = command("train", "maskgit-tiny")
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 1000
    logs = list((tmp_path / "logs").glob("*.txt"))
    assert len(logs) == (code == 1)
    for log in logs:
        assert str(log) in result.stderr
        assert type(error).__name__ in log.read_text()


def test_the_traceback_goes_to_the_temporary_folder_if_the_cache_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jielong.apps.commands.errors import LOGS, keep_traceback

    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert Path(keep_traceback(KeyError("x"))).parent == tmp_path / "temporary"
    for number in range(LOGS + 5):
        (tmp_path / "temporary" / f"jielong-20000101-000000-{number}.txt").touch()
    newest = Path(keep_traceback(KeyError("x")))
    assert newest.exists()
    assert len(list(newest.parent.glob("*.txt"))) == LOGS


def test_own_errors_are_recognised_among_those_of_libraries(tmp_path: Path) -> None:
    from jielong.apps.commands.errors import foreseen, sentence
    from jielong.data.words import read_json
    from jielong.system.long_text import joined

    for fault, ours in (
        (lambda: read_json(b"[", "a.json"), True),
        (lambda: joined([torch.zeros(1, 2)], [0, 1], 8), False),  # the error of `zip` in a line of the package
        (lambda: int("x"), False),
    ):
        with pytest.raises(ValueError) as caught:
            fault()
        assert foreseen(caught.value) is ours, sentence(caught.value)
