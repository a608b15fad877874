"""``jielong serve``: answers equal ``generate``, requests are checked before work, one at a time, and a signal ends it."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from fastapi.testclient import TestClient

import jielong
from jielong.apps.serving.app import create_app
from jielong.apps.serving.models import Limits, ServedModel
from jielong.media.reading import libraries
from jielong.system import System

from .conftest import command, succeed

LIMITS = Limits(count=4, queue=1, text=50, body=20_000)
RED = "a red square"


@pytest.fixture(scope="module")
def system(painter: Path) -> System:
    return jielong.load(painter, device="cpu")


@pytest.fixture
def served(system: System) -> ServedModel:
    return ServedModel("painter", system, "Paints.", LIMITS)


@pytest.fixture(scope="module")
def other(chain: Path) -> ServedModel:
    return ServedModel("chain", jielong.load(chain, device="cpu"), "", LIMITS)


@pytest.fixture
def client(served: ServedModel, other: ServedModel) -> Iterator[TestClient]:
    with TestClient(create_app({"painter": served, "chain": other}, LIMITS)) as client:
        yield client


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(*_: object, **__: object) -> None:
        raise AssertionError("this request must be refused before work")

    monkeypatch.setattr(System, "generate", generate)


@pytest.mark.parametrize("form", ["png", "webp", "jpg"])
def test_a_seed_gives_the_files_of_the_command(client: TestClient, painter: Path, form: str, tmp_path: Path) -> None:
    answer = client.post(
        "/generate", json={"text": [RED, "a blue square"], "count": 2, "seed": 5, "format": form, "sampling": {"steps": 3}}
    )
    assert answer.status_code == 200, answer.text
    items = answer.json()["items"]
    texts = ("--text", RED, "--text", "a blue square")
    succeed("generate", painter, *texts, "-n", 2, "--seed", 5, "--steps", 3, "--out", tmp_path / f"all.{form}", "--device", "cpu")
    assert [item["caption"] for item in items] == [RED, RED, "a blue square", "a blue square"]
    for index, item in enumerate(items):
        assert base64.b64decode(item["content"]) == (tmp_path / f"all-{index:04d}.{form}").read_bytes()
        assert item["media_type"] == f"image/{form.replace('jpg', 'jpeg')}"


def test_a_single_item_comes_as_its_file(client: TestClient, system: System, tmp_path: Path) -> None:
    answer = client.post(
        "/generate", json={"text": RED, "seed": 3, "answer": "file", "sampling": {"guidance": 2}, "negative_text": "a blue square"}
    )
    assert answer.headers["content-type"] == "image/png"
    items = system.generate(RED, seed=3, guidance=2, negative_text="a blue square")
    assert answer.content == items[0].save(tmp_path / "one.png").read_bytes()


def test_another_model_is_named(client: TestClient, chain: Path, tmp_path: Path) -> None:
    answer = client.post("/generate", json={"model": "chain", "class": "red", "answer": "file"})
    assert answer.content == jielong.load(chain, device="cpu").generate(classes="red")[0].save(tmp_path / "one.png").read_bytes()
    assert client.post("/generate", json={"model": "chain", "class": 2, "count": 2}).status_code == 200


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"txt": RED}, 422, "there is no key 'txt': did you mean 'text'?"),
        ({"text": RED, "class": "red"}, 422, "there is no key 'class'"),
        ({"text": RED, "voice": "/etc/passwd"}, 422, "there is no key 'voice'"),
        ({"text": ""}, 422, "needs words"),
        ({"text": 3}, 422, "text: expected a text, got 3"),
        ({"text": []}, 422, "text: give 1 to 4 values, not 0"),
        ({"text": "a" * 51}, 422, "text: a value has more than 50 characters"),
        ({"text": RED, "sampling": {"tempature": 1}}, 422, "there is no sampling parameter 'tempature': did you mean 'temperature'?"),
        ({"text": RED, "sampling": {"self": 1}}, 422, "there is no sampling parameter 'self'"),
        ({"text": RED, "sampling": {"top_p": 3}}, 422, "top_p must be above 0 and at most 1, not 3"),
        ({"text": RED, "sampling": {"steps": 0}}, 422, "steps must be 1 or more"),
        ({"text": RED, "sampling": {"num_inference_steps": 4}}, 422, "the SoftmaxHead draws a token in one evaluation"),
        ({"text": RED, "sampling": {"sampler": "euler"}}, 422, "sampler 'euler'"),
        ({"sampling": {"guidance": 3}}, 422, "guidance needs a condition to follow"),
        ({"negative_text": RED}, 422, "give 'text' too"),
        ({"text": RED, "count": 0}, 422, "count: Input should be greater than or equal to 1"),
        ({"text": RED, "count": 5}, 422, "count: 5 items are more than this server draws for one request, 4"),
        ({"text": [RED] * 3, "count": 2}, 422, "count: 6 items"),
        ({"text": RED, "seed": "x"}, 422, "seed: Input should be a valid integer"),
        ({"text": RED, "seed": -1}, 422, "seed: Input should be"),
        ({"text": RED, "format": "wav"}, 422, "format: painter writes png, jpg"),
        ({"text": RED, "count": 2, "answer": "file"}, 422, "answer: a file holds one item"),
        ({"text": RED, "answer": "zip"}, 422, "answer: Input should be 'json' or 'file'"),
        ({"model": "paintr"}, 404, "there is no model 'paintr' here; did you mean 'painter'?"),
        ({"model": "chain", "class": "rd"}, 422, "there is no class 'rd'; did you mean 'red'?"),
        ([RED], 422, "valid dictionary"),
        ({"text": "a" * 20_000}, 413, "at most 20,000 bytes"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_a_bad_request_is_refused_before_work(client: TestClient, request_: Any, status: int, says: str) -> None:
    answer = client.post("/generate", json=request_)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text


@pytest.mark.usefixtures("no_work")
def test_what_is_no_json_is_refused(client: TestClient) -> None:
    answer = client.post("/generate", content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["detail"]) == (422, "the request is no JSON")
    chunks = client.post("/generate", content=iter([b"{}"]), headers={"content-type": "application/json"})
    assert chunks.status_code == 411


def test_the_page_names_what_the_models_have(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for address in re.findall(r'fetch\("(\w+)"', page.text):
        assert f"/{address}" in client.get("/openapi.json").json()["paths"]
    painter, chain = client.get("/models").json()
    assert (painter["name"], painter["about"], painter["medium"]) == ("painter", "Paints.", "image of 3 x 8 x 8")
    assert [each["name"] for each in painter["inputs"]] == ["text", "negative_text"]
    assert [each["name"] for each in painter["sampling"]] == ["steps", "temperature", "top_k", "top_p", "guidance", "schedule"]
    assert [each["name"] for each in chain["sampling"]] == ["temperature", "top_k", "top_p", "guidance"]
    assert chain["sampling"][-1]["default"]["scale"] == 2
    assert client.get("/health").json() == {"status": "ok", "models": ["painter", "chain"], "waiting": 0}


def test_warnings_of_a_request_stand_in_its_answer(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    generate: Callable[..., Any] = System.generate

    def warn(*arguments: Any, **options: Any) -> Any:
        warnings.warn("1 of 1 items is cut", stacklevel=2)
        return generate(*arguments, **options)

    monkeypatch.setattr(System, "generate", warn)
    for _ in range(2):
        assert client.post("/generate", json={"text": RED}).json()["warnings"] == ["1 of 1 items is cut"]


class Held:
    """``ServedModel.draw`` that waits until it is released, and records how many run at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.release, self.running, self.most = threading.Semaphore(0), threading.Event(), 0, 0
        draw: Callable[..., Any] = ServedModel.draw

        def held(*arguments: Any) -> Any:
            self.running += 1
            self.most = max(self.most, self.running)
            self.begun.release()
            assert self.release.wait(60)
            self.running -= 1
            return draw(*arguments)

        monkeypatch.setattr(ServedModel, "draw", held)


def in_threads(client: TestClient, count: int) -> tuple[list[threading.Thread], list[int]]:
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(client.post("/generate", json={"text": RED}).status_code)) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads, codes


def until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it never came to this")


def test_one_request_is_answered_at_a_time_and_few_wait(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    threads, codes = in_threads(client, 2)
    until(lambda: client.get("/health").json()["waiting"] == 1)
    refused = client.post("/generate", json={"text": RED})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert client.post("/generate", json={"text": ""}).status_code == 422
    held.release.set()
    for thread in threads:
        thread.join()
    assert (codes, held.most) == ([200, 200], 1)
    assert client.get("/health").json()["waiting"] == 0


def test_a_running_generation_ends_at_its_next_step(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    threads, codes = in_threads(client, 2)
    assert held.begun.acquire(timeout=60)
    client.app.state.worker.stopping.set()  # type: ignore[attr-defined]
    held.release.set()
    for thread in threads:
        thread.join()
    assert codes == [503, 503]


@pytest.mark.usefixtures("default_signals")
def test_ctrl_c_ends_the_command(painter: Path) -> None:
    words = [sys.executable, "-m", "jielong", "serve", str(painter), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://127.0.0.1:\d+", line)))
        with urlopen(f"{address}/health") as answer:
            assert json.load(answer)["models"] == ["painter"]
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert (process.returncode, rest) == (0, "stopped\n")


def test_what_cannot_be_served_is_refused(tokenizer: Path, painter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is a tokenizer, which generates nothing" in command("serve", tokenizer, "--port", 0).stderr
    assert "there is no model called" in command("serve", "no-such-model", "--port", 0).stderr
    (tmp_path / "painter").symlink_to(painter)
    assert "two models are called painter" in command("serve", painter, tmp_path / "painter").stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert re.search(rf"cannot listen on 127.0.0.1, port {port}", command("serve", painter, "--port", port).stderr)

    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(libraries.importlib, "import_module", missing)
    assert "jielong serve needs fastapi" in (said := command("serve", painter).stderr)
    assert "pip install 'jielong[serve]'" in said
