"""The worked examples run, from the text of their pages: data, commands, Python, and the server, at a tiny size."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from command_lines import ROOT, lines_of
from fastapi import FastAPI
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.apps.serving import app as serving
from jielong.media.reading.pictures import read_image
from jielong.media.reading.sound import read_audio

BLOCK = re.compile(r"^(?:<!-- (\w+) -->\n)?```(sh|python)\n(.*?)^```", re.M | re.S)
BRIEF = ("train.batch=8", "train.warmup=8", "train.sample_every=16", "train.save_every=16", "train.ema=0.5")
SMALL = {
    "vqgan": (
        "tokenizer.vq.autoencoder.convolutional={channels: [8, 8], blocks: [0, 0]}",
        "tokenizer.vq.quantizer.vector.codebook_size=16",
        "losses.perceptual=null",
        "losses.adversarial=null",
    ),
    "maskgit": ("condition={text: {encoder: bytes, width: 16}}", "backbone={transformer: {layers: 1, width: 16, heads: 2}}"),
    "audio-kl": ("tokenizer.kl.autoencoder.vocos={width: 16, layers: 1, downsample: 4}", "losses.adversarial_sound=null"),
    "impact": (
        "condition={composite: {parts: {text: {encoder: bytes, width: 8, cfg_dropout: 0}, length: {width: 8, cfg_dropout: 0}}, width: 8}}",
        "backbone={transformer: {layers: 1, width: 16, heads: 2}}",
        "head={diffusion: {network: {mlp: {layers: 1, width: 16}}, steps: 2}}",
    ),
}
"""Settings that make a run tiny, by recipe."""


def command(words: list[str]) -> str:
    """Run a printed command line, trained and measured at a tiny size; its output."""
    assert words[0] == "jielong"
    words = words[1:]
    if words[0] == "train":
        words[next(index for index, word in enumerate(words) if word.startswith("train.samples="))] = "train.samples=16"
        words += [word for each in (*BRIEF, *SMALL[words[1]]) for word in ("--set", each)] + ["--device", "cpu"]
    if words[0] == "serve":
        words += ["--port", "0", "--device", "cpu"]
    if words[0] == "evaluate":
        words += ["-n", "2", "--device", "cpu"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{words}: {done.output}"
    return done.stdout


@contextmanager
def answering(app: FastAPI, listening: socket.socket) -> Iterator[str]:
    """A server in a thread; its address."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("pictures", ("shapes.webp", "shapes/sheet.png", "shapes/0007.png", "circle.jpg", "shapes.png", "circle.webp")),
        ("sound", ("strings/0001.wav", "bowed.mp3", "plucked.flac", "both.wav", "low.mp3")),
    ],
)
def test_a_page_runs_from_its_text(name: str, files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    page = (ROOT / "docs" / f"example-{name}.md").read_text("utf-8")
    served: list[tuple[FastAPI, socket.socket]] = []
    monkeypatch.setattr(serving, "run", lambda app, listening: served.append((app, listening.dup())))
    kinds = []
    for purpose, language, text in BLOCK.findall(page):
        kinds.append(purpose or language)
        if language == "sh":
            for words in lines_of(text):
                command(words)
        elif purpose == "serve":
            with answering(*served.pop()) as address:
                assert "127.0.0.1:8000" in text
                run(text.replace("127.0.0.1:8000", address), name)
        else:
            run(re.sub(r"COUNT, (.*?) = \d+,", r"COUNT, \1 = 60,", text), name)
    assert kinds == ["data", "sh", "sh", "sh", "use", "sh", "serve"]
    assert [path for path in files if not Path(path).is_file()] == []
    if name == "pictures":
        assert read_image(Path("circle.webp")).size == (32, 32)
    else:
        assert read_audio("low.mp3")[1] == 16_000


def run(text: str, name: str) -> None:
    """A block of Python."""
    exec(compile(text, name, "exec"), {"__name__": "__main__"})
