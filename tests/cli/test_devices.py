"""``--device`` in every command, and training in the processes of a launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import brief, command, succeed

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU would serve the request")


@NO_GPU
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "foo"])
def test_a_device_that_is_not_there_is_refused_in_every_command(pictures: Path, painter: Path, tmp_path: Path, device: str) -> None:
    words = {
        "train": ["maskgit-tiny", "--data", pictures, "--out", tmp_path / "run"],
        "compare": ["maskgit-tiny", "--samples", "8", "--data", pictures, "--out", tmp_path / "compared"],
        "generate": [painter, "--text", "a red square", "--out", tmp_path / "one.png"],
        "evaluate": [painter, "--data", pictures],
        "tokenize": [painter, "--data", pictures, "--out", tmp_path / "tokens.safetensors"],
        "detokenize": [painter, tmp_path / "tokens.safetensors", "--out", tmp_path / "back"],
        "doctor": [],
    }
    (tmp_path / "tokens.safetensors").write_bytes(b"")
    for name, rest in words.items():
        result = command(name, *rest, "--device", device)
        assert result.exit_code == 2, (name, result.output)
        assert "--device" in result.stderr, name
        assert ("unknown device" if device == "foo" else "is not available") in result.stderr, name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokens.safetensors"]


def test_what_was_chosen_is_printed_once(painter: Path, tmp_path: Path) -> None:
    result = succeed("generate", painter, "--text", "a red square", "--out", tmp_path / "one.png", "--device", "cpu")
    assert result.stderr.count("computing on cpu") == 1


def launched(*words: object) -> subprocess.CompletedProcess[str]:
    """Two processes of torchrun, as a person starts them."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "jielong"]
    return subprocess.run(
        [*start, *map(str, words)], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600, check=False
    )


@NO_GPU
def test_two_processes_without_a_gpu_share_one_run(pictures: Path, tmp_path: Path) -> None:
    settings = [*brief("train.log_every=8", "train.precision=fp32", "backbone.transformer.dropout=0"), "--data", pictures]
    done = launched("train", "maskgit-tiny", *settings, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count(" on cpu in 2 processes; Ctrl-C") == 1
    assert done.stderr.count("done: 16 samples") == 1
    assert done.stdout.split() == [str(tmp_path / "two")]
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in lines] == [8, 16]
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["processes"] == 2
    succeed("train", "maskgit-tiny", *settings, "--out", tmp_path / "one", "--device", "cpu")
    alone = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    for one, two in zip(alone, lines, strict=True):  # the mean over all samples, whoever computed it
        assert {name: two[name] for name in ("loss", "grad_norm")} == pytest.approx(
            {name: one[name] for name in ("loss", "grad_norm")}, rel=1e-5
        )


@NO_GPU
def test_a_command_that_runs_in_one_process_refuses_a_launcher(painter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it
    done = command("generate", painter, "--text", "a red square", "--out", tmp_path / "out")
    assert done.exit_code != 0
    assert "runs in one process, and a launcher started 2" in done.stderr
    assert not (tmp_path / "out").exists()
