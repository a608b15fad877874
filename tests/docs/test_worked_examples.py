"""The worked examples run, from the text of their pages: data, commands, Python, and the server, at a tiny size."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from command_lines import ROOT, lines_of
from typer.testing import CliRunner

from jielong.apps.cli import app
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
    if words[0] == "evaluate":
        words += ["-n", "2", "--device", "cpu"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{words}: {done.output}"
    return done.stdout


@contextmanager
def answered(server: HTTPServer) -> Iterator[None]:
    """A thread that answers one request."""
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize(
    ("name", "files", "query", "kind"),
    [
        (
            "pictures",
            ("shapes.webp", "shapes/sheet.png", "shapes/0007.png", "circle.jpg", "shapes.png"),
            "text=a+small+red+circle",
            "image/png",
        ),
        ("sound", ("strings/0001.wav", "bowed.mp3", "plucked.flac", "both.wav"), "text=bowed+string,+low&seconds=0.5", "audio/mpeg"),
    ],
)
def test_a_page_runs_from_its_text(
    name: str, files: tuple[str, ...], query: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    page = (ROOT / "docs" / f"example-{name}.md").read_text("utf-8")
    served: list[HTTPServer] = []
    begin: Any = HTTPServer.__init__
    monkeypatch.setattr(HTTPServer, "__init__", lambda server, place, handler: begin(server, (place[0], 0), handler))
    monkeypatch.setattr(HTTPServer, "serve_forever", lambda server: served.append(server))
    kinds = []
    for purpose, language, text in BLOCK.findall(page):
        kinds.append(purpose or language)
        if language == "sh":
            for words in lines_of(text):
                command(words)
        else:
            exec(compile(re.sub(r"COUNT, (.*?) = \d+,", r"COUNT, \1 = 60,", text), f"{name}: {purpose}", "exec"), {"__name__": "__main__"})
    assert kinds == ["data", "sh", "sh", "sh", "use", "serve"]
    assert [path for path in files if not Path(path).is_file()] == []
    (server,) = served
    address = f"http://127.0.0.1:{server.server_address[1]}/?"
    with answered(server), urlopen(address + query) as answer:
        assert answer.headers["Content-Type"] == kind
        content = answer.read()
    with answered(server), pytest.raises(HTTPError, match="400"):
        urlopen(address + "seed=1")
    server.server_close()
    if name == "pictures":
        assert read_image(content).size == (32, 32)
    else:
        assert read_audio(content)[1] == 16_000
