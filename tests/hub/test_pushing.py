"""A checkpoint is uploaded whole, in one commit, and loads again; nothing is sent before everything is checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hub_models import files_of, make_generator, make_tokenizer, point_at
from huggingface_hub import ModelCard
from local_hub import READER, LocalHub, Repository
from typer.testing import CliRunner

import jielong
from jielong.apps.cli import app
from jielong.system import hub
from jielong.system.pushing import push
from jielong.training.checkpoint import CHECKSUMS, WEIGHTS, CheckpointError


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    """A generator on a tokenizer in a folder of this machine, which its checkpoint has a copy of."""
    return make_generator(tmp_path / "generator", str(make_tokenizer(tmp_path / "vq")))


def test_what_is_pushed_loads_and_draws_the_same(server: LocalHub, generator: Path) -> None:
    (generator / "metrics.jsonl").write_text("{}\n")
    (generator / "state-1").mkdir()
    (generator / "state-1" / "notes.txt").write_text("of this machine")
    pushed = push(str(generator), "me/small", message="A first model")
    assert server.messages == ["A first model"]
    assert pushed.address.pinned
    tree = server.repositories["me/small"].commits[pushed.address.revision or ""]
    stage = {f"stages/tokenizer/{name}" for name in ("recipe.yaml", "model.json", WEIGHTS, CHECKSUMS)}
    own = {"recipe.yaml", "model.json", WEIGHTS, CHECKSUMS, "README.md", "metrics.jsonl"}
    assert set(tree) == own | stage | {".gitattributes"}
    shutil.rmtree(generator.parent / "vq")  # nobody else has it
    ours, theirs = jielong.load(generator, "cpu"), jielong.load("hf://me/small", "cpu")
    drawn = [system.generate(count=2, seed=3).tensor for system in (ours, theirs)]
    assert torch.equal(*drawn)


def test_a_card_is_written_where_there_is_none_and_kept_where_there_is_one(server: LocalHub, generator: Path) -> None:
    pushed = push(str(generator), "me/small")
    assert any("has no README.md" in note for note in pushed.notes)
    assert any("the licence of the weights is not known" in note for note in pushed.notes)
    card = ModelCard(server.repositories["me/small"].commits[pushed.address.revision or ""]["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("jielong", "unconditional-image-generation")
    assert card.data.license == "unknown"
    assert card.data.tags == ["image", "generator"]
    own = "---\nlibrary_name: jielong\nlicense: mit\ntags: [image]\n---\n\n# Mine\n"
    (generator / "README.md").write_text(own)
    again = push(str(generator), "me/small")
    assert not again.notes
    assert server.repositories["me/small"].commits[again.address.revision or ""]["README.md"].decode() == own


def test_a_branch_and_a_private_repository(server: LocalHub, generator: Path) -> None:
    result = CliRunner().invoke(app, ["push", str(generator), "me/small", "--private", "--revision", "next", "--message", "Try"])
    assert result.exit_code == 0, result.output
    repository = server.repositories["me/small"]
    assert repository.private
    assert WEIGHTS in repository.commits[repository.branches["next"]]
    assert WEIGHTS not in repository.commits[repository.branches["main"]]
    assert result.stdout.strip() == f"hf://me/small@{repository.branches['next']}"


def test_shipped_models_have_valid_metadata(server: LocalHub) -> None:
    pushed = push("vq-emoji", "me/vq-emoji")
    tree = server.repositories["me/vq-emoji"].commits[pushed.address.revision or ""]
    assert {"licence.json", "evaluation.json", "card.json", "metrics.jsonl"} <= set(tree)
    metadata = yaml.safe_load(tree["README.md"].decode().split("---\n")[1])
    assert (metadata["license"], metadata["library_name"]) == ("apache-2.0", "jielong")
    assert not pushed.notes


def _damaged(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))


def _without_stage(folder: Path) -> None:
    shutil.rmtree(folder / "stages")
    shutil.move(folder.parent / "vq", folder.parent / "moved")


def _not_yaml(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: [\n---\n# Mine\n")


def _plain_readme(folder: Path) -> None:
    (folder / "README.md").write_text("# Mine\n")


def _other_library(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlibrary_name: diffusers\ntags: []\n---\n# Mine\n")


def _unfinished(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_damaged, r"is damaged and is not uploaded: .*SHA-256"),
        (_without_stage, r"names .*vq as its tokenizer, which is no shipped model, .* push it and name its address"),
        (_not_yaml, r"the metadata of README.md are no valid YAML"),
        (_plain_readme, r"README.md does not begin with metadata"),
        (_other_library, r"the metadata of README.md need `library_name: jielong`"),
        (_unfinished, r"is not a finished checkpoint: it has no model.safetensors"),
    ],
)
def test_nothing_is_sent_before_everything_is_checked(server: LocalHub, generator: Path, spoil, says: str) -> None:
    spoil(generator)
    with pytest.raises(CheckpointError, match=says):
        push(str(generator), "me/small")
    assert not server.requests


def test_a_stage_that_is_only_here_is_copied(server: LocalHub, generator: Path) -> None:
    shutil.rmtree(generator / "stages")  # loads from the folder that the recipe names
    pushed = push(str(generator), "me/small")
    assert f"stages/tokenizer/{WEIGHTS}" in server.repositories["me/small"].commits[pushed.address.revision or ""]
    assert not (generator / "stages").exists()


def test_what_others_cannot_follow_is_said(server: LocalHub, generator: Path) -> None:
    recipe = generator / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("train:\n", "train:\n  init_from: runs/mine\n"))
    assert any("train.init_from is runs/mine, a folder of this machine" in note for note in push(str(generator), "me/small").notes)


@pytest.mark.parametrize(("token", "says"), [(READER, r"you may not write me/small: log in"), ("", r"me/small")])
def test_without_permission_nothing_is_made(
    server: LocalHub, generator: Path, monkeypatch: pytest.MonkeyPatch, token: str, says: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(CheckpointError, match=says):
        push(str(generator), "me/small")
    assert not server.repositories


def test_a_public_repository_is_not_filled_with_private_weights(server: LocalHub, generator: Path) -> None:
    server.repositories["me/small"] = Repository()
    server.repositories["me/small"].commit({"a": b""})
    with pytest.raises(CheckpointError, match="me/small is there already and public: make it private on its page"):
        push(str(generator), "me/small", private=True)
    assert not server.writes()


def test_without_network_it_is_said(server: LocalHub, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    with pytest.raises(CheckpointError, match=r"hf://me/small: the Hub cannot be reached"):
        push(str(generator), "me/small")


def test_a_name_that_is_none_is_refused(generator: Path) -> None:
    result = CliRunner().invoke(app, ["push", str(generator), "small"])
    assert result.exit_code == 2
    assert "USER/NAME" in result.stderr


def test_what_was_pulled_can_be_pushed_again(server: LocalHub, generator: Path, tmp_path: Path) -> None:
    push(str(generator), "me/small")
    out = hub.pull(hub.HubAddress("me/small"), tmp_path / "copy")
    assert json.loads((out / hub.ORIGIN).read_text())["asked_for"] == "hf://me/small"
    second = push(str(out), "me/second")
    tree = server.repositories["me/second"].commits[second.address.revision or ""]
    assert {name: data for name, data in tree.items() if name in files_of(generator)} == files_of(generator)
