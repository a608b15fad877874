"""Every command does what it says, and writes what it says it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
import yaml
from PIL import Image
from safetensors import safe_open

from jielong.apps.commands.sampling_options import guidance_of
from jielong.apps.commands.screen import quantity
from jielong.apps.commands.training import budget_of
from jielong.config.guidance import Guidance
from jielong.config.recipe import load
from jielong.config.runs import default_out
from jielong.media.pictures import Pictures
from jielong.media.players import Sounds

from .conftest import brief, command, succeed


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- train, show ----------------------------------------------------------------------------------------------------------------------


def test_train_leaves_a_checkpoint_its_log_and_sheets(tokenizer: Path) -> None:
    found = files(tokenizer)
    assert {"recipe.yaml", "model.json", "model.safetensors", "metrics.jsonl", "summary.json"} <= found
    assert any(name.startswith("samples/") for name in found)
    assert not [name for name in found if name.endswith(".tmp")]


def test_the_same_command_goes_on_and_another_recipe_is_refused(pictures: Path, tmp_path: Path) -> None:
    words = ("train", "vqgan-tiny", "--data", pictures, "--out", tmp_path / "run", *brief())
    succeed(*words)
    before = (tmp_path / "run/model.safetensors").read_bytes()
    again = succeed(*words)  # finished: nothing is trained a second time
    assert (tmp_path / "run/model.safetensors").read_bytes() == before
    assert again.stdout.strip() == str(tmp_path / "run")
    stored = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    del stored["train"]["precision"]
    (tmp_path / "run/recipe.yaml").write_text(yaml.safe_dump(stored))
    succeed(*words)  # as if that setting had come since
    other = command(*words, "--set", "train.lr=0.5")
    assert other.exit_code == 1
    assert "Traceback" not in other.stderr


def test_train_with_a_token_file_made_by_tokenize(pictures: Path, tokenizer: Path, tmp_path: Path) -> None:
    succeed("tokenize", tokenizer, "--data", pictures, "--out", tmp_path / "t.safetensors")
    parts = ("data.size=16", f"tokenizer={{checkpoint: {tokenizer}}}")
    words = ("train", "maskgit-tiny", "--data", pictures, *brief(*parts), "--out", tmp_path / "run")
    succeed(*words, "--tokens", tmp_path / "t.safetensors")
    succeed("tokenize", tokenizer, "--data", pictures, "--out", tmp_path / "h.safetensors", "--split", "heldout")
    stale = command(*words[:-1], tmp_path / "other", "--tokens", tmp_path / "h.safetensors")
    assert stale.exit_code == 1
    assert "jielong tokenize" in stale.stderr
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_made_on_a_folder_stands_alone(chain: Path) -> None:
    assert "stages/tokenizer/model.safetensors" in files(chain)


@pytest.mark.parametrize("words", [("show", "maskgit-tiny"), ("train", "maskgit-tiny", "--dry-run")])
def test_show_gives_the_origin_of_every_value(
    words: tuple[str, ...], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jielong.apps.commands.screen.results._width", 240)  # a long path is not to be folded
    shown = succeed(*words, "--data", pictures, "--set", "train.lr=2e-3").stdout
    rows = {cells[0]: cells for line in shown.splitlines() if len(cells := line.split()) >= 3}
    assert rows["train.lr"][1:] == ["0.002", "--set"]
    assert rows["data.set"][1:] == [str(pictures), "--data"]
    assert rows["data.size"][1:] == ["8", "recipe"]
    assert rows["train.schedule"][1:] == ["cosine", "default"]
    assert rows["train.micro_batch"][1:] == ["16", "derived"]
    assert rows["vocabulary"][1:] == ["8", "tokenizer"]
    assert "token grid" in shown
    assert "8 x 8" in shown
    assert list(tmp_path.iterdir()) == []  # nothing was trained


def test_show_without_the_data_still_shows_the_settings() -> None:
    result = command("show", "maskgit-tiny", "--data", "/nowhere")
    assert result.exit_code == 0
    assert "train.samples" in result.stdout
    assert "/nowhere" in result.stderr


def test_list_knows_all_parts_and_sets_without_importing_them() -> None:
    from jielong.config.catalogue import SETS, parts_of
    from jielong.config.registry import FAMILIES
    from jielong.config.registry import parts_of as imported
    from jielong.data.opening import BUILT_IN

    assert set(SETS) == set(BUILT_IN)
    for family in FAMILIES:
        assert [part.name for part in parts_of(family)] == list(imported(family))
        assert all(part.about for part in parts_of(family))


def test_default_folder_depends_on_what_was_changed() -> None:
    recipe = load("vqgan-tiny")
    changed = load("vqgan-tiny", ["train.lr=0.5"])
    assert default_out("vqgan-tiny", recipe, None, ()) == Path("runs/vqgan-tiny")
    folders = {
        default_out("vqgan-tiny", recipe, None, ()),
        default_out("vqgan-tiny", changed, None, ["train.lr=0.5"]),
        default_out("vqgan-tiny", recipe, "emoji", ()),
        default_out("vqgan-tiny", recipe, "mine", ()),
    }
    assert len(folders) == 4
    assert default_out("vqgan-tiny", changed, None, ["train.lr=0.5"]) in folders  # the same command, the same run


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("1h30m", 5400), ("1.5m", 90)])
def test_budget_is_a_span_of_time(text: str, seconds: float) -> None:
    assert budget_of(text) == seconds


@pytest.mark.parametrize("text", ["10", "m", "10 m", "0s", "-1m", "1d", ""])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        budget_of(text)


# --- tokens ---------------------------------------------------------------------------------------------------------------------------


def test_tokenize_then_detokenize_gives_the_reconstructions(pictures: Path, tokenizer: Path, tmp_path: Path) -> None:
    import torch

    from jielong.data import open_data
    from jielong.media.images import to_bytes, to_bytes_tensor
    from jielong.system import load as load_system

    file = tmp_path / "tokens.safetensors"
    succeed("tokenize", tokenizer, "--data", pictures, "--out", file, "--split", "heldout")
    with safe_open(file, "pt") as opened:
        assert opened.get_tensor("values").shape == (6, 16, 1)
    succeed("detokenize", tokenizer, file, "--out", tmp_path / "back", "-n", 4)
    assert files(tmp_path / "back") == {*(f"000{i}.png" for i in range(4)), "provenance.json"}
    system = load_system(str(tokenizer))
    real = open_data(pictures, size=16, split="heldout").media(range(4))
    expected = to_bytes(system.decode(system.encode(real)))
    found = torch.stack([to_bytes_tensor(Image.open(tmp_path / "back" / f"000{i}.png")) for i in range(4)])
    assert torch.equal(found, expected)


# --- generate -------------------------------------------------------------------------------------------------------------------------


def test_generate_from_words(painter: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    result = succeed(
        "generate", painter, "--text", "a red square", "--text", "a blue square", "-n", 2, "--guidance", "linear:3", "--out", out
    )
    assert {"0000.png", "0001.png", "0002.png", "0003.png", "sheet.png", "provenance.json"} <= files(out)
    assert Image.open(out / "0000.png").size == (8, 8)
    assert (out / "0002.txt").read_text().strip() == "a blue square"
    assert result.stdout.strip() == str(out)
    assert "4 pictures, generated in " in result.stderr
    assert "s each" in result.stderr


def test_the_length_of_sound_is_distinguished_from_the_time_it_took() -> None:
    clips = Sounds(torch.zeros(2, 1, 8_000), 8_000, lengths=[8_000, 4_000])
    assert clips.summary(3.0) == "2 clips of sound, 1.50 s in all, generated in 3.00 s: 0.50 times real time"
    assert clips[1:].summary(0.25) == "1 clip of sound, 0.50 s, generated in 0.25 s: 2.00 times real time"
    assert Pictures(torch.zeros(1, 3, 8, 8)).summary(3.0) == "1 picture, generated in 3.00 s"


def test_generate_from_classes_is_the_same_for_the_same_seed(chain: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        options = ("--temperature", 0.9, "--top-k", 32, "--top-p", 0.95, "--seed", seed, "-n", 2)
        succeed("generate", chain, "--class", "red", "--class", "2", *options, "--out", tmp_path / name)
    drawn = {name: [(tmp_path / name / f"000{i}.png").read_bytes() for i in range(4)] for name in "abc"}
    assert drawn["a"] == drawn["b"]
    assert drawn["a"] != drawn["c"]


def test_generate_into_one_file(painter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    succeed("generate", painter, "--text", "a red square", "--out", "one.png")
    several = succeed("generate", painter, "--text", "a red square", "-n", 3, "--out", "sheet.png")
    assert "sheet.png has all 3, sheet-0000.png to sheet-0002.png one each" in several.stderr
    assert files(tmp_path) == {"one.png", "sheet.png", "sheet.png.json", *(f"sheet-000{i}.png" for i in range(3))}
    assert Path("sheet-0000.png").read_bytes() == Path("one.png").read_bytes()
    assert Image.open("one.png").size == (8, 8)
    assert Image.open("sheet.png").width > 3 * 8


def test_a_file_has_the_format_of_its_ending(painter: Path, tmp_path: Path) -> None:
    for ending, form in ((".jpg", "JPEG"), (".webp", "WEBP"), (".PNG", "PNG")):
        succeed("generate", painter, "--text", "a red square", "--out", tmp_path / f"one{ending}")
        with Image.open(tmp_path / f"one{ending}") as image:
            assert (image.format, image.size) == (form, (8, 8))


def test_an_ending_that_cannot_be_written_is_refused_before_the_work(painter: Path, tokenizer: Path, tmp_path: Path) -> None:
    for ending in (".mp3", ".xyz", ".svg"):
        refused = command("generate", painter, "--text", "x", "--text", "y", "--class", "none", "--out", tmp_path / f"one{ending}")
        assert refused.exit_code == 2  # and nothing about the input, which is refused by the work
        plain = " ".join(refused.stderr.replace("│", " ").split())
        assert f"pictures are not written as {ending}: use .png, .jpg, .jpeg, .webp" in plain
    assert command("detokenize", tokenizer, tokenizer / "recipe.yaml", "--out", tmp_path / "back.wav").exit_code == 2
    assert command("data", "inspect", "/nowhere", "--sheet", tmp_path / "sheet.mp4").exit_code == 2
    assert files(tmp_path) == set()


def test_negative_text_is_stored_and_an_empty_one_changes_nothing(painter: Path, tmp_path: Path) -> None:
    words = ("generate", painter, "--text", "a red square", "--text", "a blue square", "--guidance", 3)
    for name, negative in (("plain", ()), ("empty", ("--negative-text", "")), ("green", ("--negative-text", "a green square"))):
        succeed(*words, *negative, "--out", tmp_path / name)
    drawn = {name: (tmp_path / name / "sheet.png").read_bytes() for name in ("plain", "empty", "green")}
    assert drawn["plain"] == drawn["empty"]
    stored = json.loads((tmp_path / "green" / "provenance.json").read_text())
    assert stored["inputs"] == {"text": ["a red square", "a blue square"], "negative_text": ["a green square"]}
    assert stored["sampling"]["guidance"]["scale"] == 3
    measured = succeed("evaluate", painter, "--guidance", 3, "--negative-text", "a green square", "-n", 2, "--json")
    assert json.loads(measured.stdout)["provenance"]["draws"]["negative_text"] == "a green square"


def test_options_that_do_not_fit_the_model_are_refused_by_name(painter: Path, chain: Path, tmp_path: Path) -> None:
    text = ("--text", "a red square", "--out", tmp_path / "out")
    for words, says in (
        (("generate", painter, *text, "--negative-text", "x", "--guidance", 1), "--negative-text is what guidance leads away from"),
        (("generate", painter, *text, "--sampler", "ddim"), "sampler 'ddim': the SoftmaxHead has one way to draw"),
        (("generate", chain, "--class", "red", "--negative-text", "x"), "takes --class, not --negative-text"),
        (("evaluate", chain, "--negative-text", "x"), "leave out --negative-text"),
        (("evaluate", painter, "--negative-text", "x", "--guidance", 1), "guidance is off"),
    ):
        refused = command(*words)
        assert refused.exit_code == 1
        assert says in refused.stderr
    assert files(tmp_path) == set()


def test_a_used_folder_holds_the_results_of_one_run(painter: Path, tmp_path: Path) -> None:
    words = ("generate", painter, "--text", "a red square", "--out", tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    succeed(*words, "-n", 3, "--trace")
    again = succeed(*words, "-n", 1, "--seed", 1)
    assert "removed 7 files of the last run" in again.stderr  # two pictures and their captions, a sheet, a trace and its film
    assert files(tmp_path) == {"0000.png", "0000.txt", "notes.txt", "provenance.json"}
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert (provenance["seed"], provenance["captions"], set(provenance["files"])) == (1, ["a red square"], {"0000.png", "0000.txt"})


def test_a_trace_reveals_every_token_once_and_ends_in_the_picture(painter: Path, tmp_path: Path) -> None:
    succeed("generate", painter, "--text", "a red square", "--text", "a green square", "--steps", 4, "--trace", "--out", tmp_path / "t")
    trace = json.loads((tmp_path / "t/trace.json").read_text())
    assert [step["step"] for step in trace["steps"]] == [1, 2, 3, 4]
    for picture in range(2):
        places = [place for step in trace["steps"] for place in step["pictures"][picture]["positions"]]
        assert sorted(places) == list(range(64))
        assert all(len(step["pictures"][picture]["tokens"]) == len(step["pictures"][picture]["positions"]) for step in trace["steps"])
    film = Image.open(tmp_path / "t/trace.webp")
    assert film.n_frames == 4  # type: ignore[attr-defined]
    first = film.convert("RGB")
    assert (128, 128, 128) in {colour for _, colour in first.getcolors(1 << 16) or ()}  # not yet known
    film.seek(3)
    drawn = Image.open(tmp_path / "t/0000.png").convert("RGB").resize((16, 16), Image.Resampling.NEAREST)
    assert film.convert("RGB").crop((2, 2, 18, 18)).tobytes() == drawn.tobytes()


@pytest.mark.parametrize(
    ("text", "guidance"),
    [
        ("3", Guidance(scale=3)),
        ("constant:2.5", Guidance(scale=2.5)),
        ("linear:3", Guidance(scale=3, kind="linear")),
        ("linear-after:3", Guidance(scale=3, kind="linear", counted="after")),
        ("interval:3:0.1:0.6", Guidance(scale=3, kind="interval", start=0.1, stop=0.6)),
    ],
)
def test_guidance_is_read(text: str, guidance: Guidance) -> None:
    assert guidance_of(text) == guidance


@pytest.mark.parametrize("text", ["strong", "interval:3", "linear", "linear:3:4", "interval:3:0.6:0.1", "-1", "quadratic:3"])
def test_other_guidance_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="guidance: expected"):
        guidance_of(text)


# --- data, demo -----------------------------------------------------------------------------------------------------------------------


def test_data_inspect_as_json_and_as_a_table(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for path in sorted(pictures.rglob("*.png"))[:3]:
        (tmp_path / "set" / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    (tmp_path / "set" / "broken.png").write_bytes(b"not a picture")
    report = json.loads(succeed("data", "inspect", tmp_path / "set", "--json", "--sheet", tmp_path / "sheet.png").stdout)
    assert report["count"] == 3
    assert list(report["broken"]) == ["broken.png"]
    assert (tmp_path / "sheet.png").exists()
    assert "broken.png" in succeed("data", "inspect", tmp_path / "set").stdout


def test_data_list_names_every_set_and_its_state() -> None:
    shown = succeed("data", "list").stdout
    assert "7,572 pictures" in shown  # emoji
    assert "emoji-full" in shown
    assert "fashion-mnist" in shown


def test_demo_hands_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import jielong.apps.demo

    seen: dict[str, object] = {}
    monkeypatch.setattr(jielong.apps.demo, "run", lambda out, minutes, **more: seen.update(out=out, minutes=minutes, **more))
    succeed("demo", "--out", tmp_path, "--minutes", 0.5, "--seed", 7, "--set", "train.lr=1")
    assert seen == {"out": tmp_path, "minutes": 0.5, "seed": 7, "overrides": ["train.lr=1"], "show": False}


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_345_678, "12.35 MB"), (2.5e12, "2.5 TB"), (0.375, "0.375 B")]
)
def test_quantities(value: float, text: str) -> None:
    assert quantity(value, "B") == text
