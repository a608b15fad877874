"""Checkpoints of the Hub are loaded by their address: pinned, verified, from the cache without network; what is wrong is a sentence."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_models import files_of, make_generator, make_tokenizer, point_at
from huggingface_hub import constants
from local_hub import READER, LocalHub, Repository
from typer.testing import CliRunner

import jielong
from jielong.apps.cli import app
from jielong.config.hub_address import parse_address
from jielong.config.recipe import load as load_recipe
from jielong.system import hub
from jielong.system.checkpoint import find
from jielong.system.verifying import verify
from jielong.training.checkpoint import WEIGHTS, CheckpointError
from jielong.training.experiment import run

NAME, ADDRESS = "me/vq", "hf://me/vq"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return make_tokenizer(tmp_path / "vq")


@pytest.fixture
def commit(server: LocalHub, tokenizer: Path) -> str:
    """The tokenizer in a repository, beside a pickle and a large file of another program."""
    server.repositories[NAME] = Repository()
    extra = {"pytorch_model.bin": b"\x80pickle", "flax.msgpack": b"x", "README.md": b"---\nlibrary_name: jielong\n---\n# VQ\n"}
    return server.repositories[NAME].commit({**files_of(tokenizer), **extra})


def test_it_loads_what_was_uploaded_and_says_the_commit(
    server: LocalHub, commit: str, tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "jielong.hub"):
        system, ours = jielong.load(ADDRESS, "cpu"), jielong.load(tokenizer, "cpu")
    assert system.name == f"{ADDRESS}@{commit}"
    assert f"{ADDRESS} is at commit {commit}" in caplog.messages
    assert f"{ADDRESS}: pickles can run any code and are not fetched: pytorch_model.bin" in caplog.messages
    media = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(system.encode(media).values, ours.encode(media).values)
    folder = find(ADDRESS)
    assert sorted(files_of(folder)) == sorted([*files_of(tokenizer), "README.md"])
    assert not any("pytorch_model" in path or "flax" in path for method, path in server.requests if method in ("GET", "HEAD"))


def test_one_process_sees_one_commit_and_a_commit_stays(server: LocalHub, commit: str, tokenizer: Path) -> None:
    assert find(ADDRESS).name == commit
    newer = server.repositories[NAME].commit({"README.md": b"new"})
    assert find(ADDRESS).name == commit
    hub.fetch.cache_clear()  # another process
    assert find(ADDRESS).name == newer
    server.requests.clear()
    assert find(f"{ADDRESS}@{commit}").name == commit  # in the cache: nothing is asked
    assert not server.requests


def test_branches_are_revisions(server: LocalHub, commit: str) -> None:
    repository = server.repositories[NAME]
    repository.branches["v1"] = commit
    repository.commit({"README.md": b"new"})
    assert find(f"{ADDRESS}@v1").name == commit != find(ADDRESS).name


def test_without_network_the_cached_commit_is_taken_and_said(
    server: LocalHub, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find(ADDRESS)
    point_at("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)  # where nobody answers
    assert find(ADDRESS).name == commit
    assert any("the Hub cannot be reached" in message and "the cached commit is taken" in message for message in caplog.messages)
    with pytest.raises(CheckpointError, match=r"hf://me/other: the Hub cannot be reached .* with a network, `jielong pull` fetches it"):
        find("hf://me/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.fetch.cache_clear()
    assert find(ADDRESS).name == commit
    with pytest.raises(CheckpointError, match=r"hf://me/other: HF_HUB_OFFLINE forbids to ask the Hub and it is not in the cache"):
        find("hf://me/other")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("hf://me/none", r"no repository me/none on the Hub, or it is private: if it is, log in by `hf auth login`, or set HF_TOKEN"),
        ("hf://me/vq@v9", r"the repository me/vq has no revision 'v9': name a branch, a tag or a commit of it"),
        ("hf://me/secret", r"no repository me/secret on the Hub, or it is private"),
        ("hf://me/gated", r"access to me/gated must be granted by its owners"),
        ("hf://me/other", r"hf://me/other is no checkpoint of Jielong: the repository has no recipe.yaml"),
        ("hf://me", r"'hf://me' is no address of a checkpoint: write hf://USER/NAME"),
    ],
)
@pytest.mark.usefixtures("commit")
def test_what_cannot_be_read_is_a_sentence(server: LocalHub, monkeypatch: pytest.MonkeyPatch, address: str, says: str) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_stranger" if "secret" in address else READER)
    server.repositories |= {"me/secret": Repository(private=True), "me/gated": Repository(gated=True), "me/other": Repository()}
    server.repositories["me/other"].commit({"config.json": b"{}", "model.safetensors": b""})
    with pytest.raises(CheckpointError, match=says):
        find(address)
    assert "model.safetensors" not in " ".join(path for _, path in server.requests)


def test_a_private_repository_is_read_with_a_token(server: LocalHub, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repositories[NAME].private = True
    monkeypatch.setenv("HF_TOKEN", READER)
    assert find(ADDRESS).name == commit


def test_damage_on_the_way_is_found(server: LocalHub, tokenizer: Path) -> None:
    files = files_of(tokenizer)
    damaged = bytearray(files[WEIGHTS])
    damaged[-1] ^= 1
    server.repositories[NAME] = Repository()
    server.repositories[NAME].commit({**files, WEIGHTS: bytes(damaged)})
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: its SHA-256 is"):
        find(ADDRESS)


def test_pulling_copies_whole_and_records_the_commit(server: LocalHub, commit: str, tokenizer: Path, tmp_path: Path) -> None:
    out = hub.pull(parse_address(ADDRESS), tmp_path / "copy")
    files = files_of(out)
    assert commit.encode() in files.pop(hub.ORIGIN)
    assert {name: files[name] for name in files_of(tokenizer)} == files_of(tokenizer)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert jielong.load(out, "cpu").tokenizer.layout.vocabulary == 16


@pytest.mark.usefixtures("commit")
def test_commands_take_an_address(tmp_path: Path) -> None:
    def invoke(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.output

    assert "nothing is wrong: the model loads" in invoke("verify", ADDRESS)
    assert verify(ADDRESS).sound
    assert "hf://me/vq is at commit" in invoke("pull", ADDRESS, "--out", str(tmp_path / "out")) or hub.fetch.cache_info().hits
    assert "vq:" in invoke("show", ADDRESS, "--yaml")


def test_a_recipe_names_an_address_and_its_run_names_the_commit(server: LocalHub, commit: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    first = make_generator(tmp_path / "first", ADDRESS)  # its recipe, and a start for the training
    file.write_text((first / "recipe.yaml").read_text())
    overrides = [f"train.init_from={first}", "train.samples=16", "train.batch=8"]
    out = tmp_path / "run"
    options = {"progress": False, "evaluate": False}
    run(load_recipe(str(file), overrides), out, device="cpu", stop_after=8, **options)  # type: ignore[arg-type]
    assert f"checkpoint: {ADDRESS}@{commit}" in (out / "recipe.yaml").read_text()
    assert (out / "stages" / "tokenizer" / WEIGHTS).read_bytes() == (find(ADDRESS) / WEIGHTS).read_bytes()
    server.repositories[NAME].commit({"README.md": b"new"})
    hub.fetch.cache_clear()  # the run goes on in another process, after the repository has changed
    assert run(load_recipe(str(file), overrides), out, device="cpu", **options).finished  # type: ignore[arg-type]
    assert f"checkpoint: {ADDRESS}@{commit}" in (out / "recipe.yaml").read_text()


def test_the_variables_of_the_client_are_those_of_the_command(server: LocalHub, commit: str, tmp_path: Path) -> None:
    """In a process of its own, since the client reads them when it is imported."""
    variables = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": server.url,
        "HF_HUB_CACHE": str(tmp_path / "own"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-m", "jielong", "pull", ADDRESS]
    found = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()).name == commit
    assert f"{ADDRESS} is at commit {commit}" in found.stderr
    server.requests.clear()
    again = subprocess.run(command, env={**variables, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stdout == found.stdout
    assert not server.requests
