"""Every script of ``scripts/`` and ``docs/`` runs, at its smallest, and does what it promises."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from jielong.config.recipe import built_in
from jielong.config.recipe import load as load_recipe
from jielong.config.zoo import card_line, zoo
from jielong.data.licences import Licence
from jielong.system import load
from jielong.training.checkpoint import fingerprint
from running_scripts import ROOT, module_of, run_script

SCRIPTS, DOCS = ROOT / "scripts", ROOT / "docs"
COVERED = {
    "losses",
    "outputs",
    "recording",
    "build_emoji",
    "ship_model",
    "shipped",
    "make_gallery",
    "make_recipes",  # by tests/docs/test_recipes_page.py
    "make_systems",
    "written",  # by those of make_recipes and make_systems
    "migrate_checkpoint",
    "measure_code",
}


def quick() -> Any:
    """``benchmarks/quick.py``: small sets and checkpoints."""
    return module_of(ROOT / "benchmarks" / "quick.py")


def test_every_script_is_run() -> None:
    assert {path.stem for folder in (SCRIPTS, DOCS) for path in folder.glob("*.py")} == COVERED


def test_losses_are_recorded(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as done:
        run_script(SCRIPTS / "losses.py", "record", tmp_path / "losses.json", "--quick")
    assert done.value.code == 0
    recorded = json.loads((tmp_path / "losses.json").read_text())
    assert list(recorded) == ["maskgit-tiny"]
    assert len(recorded["maskgit-tiny"]) == 2
    assert all(math.isfinite(step["loss"]) and step["grad_norm"] > 0 for step in recorded["maskgit-tiny"])


def test_every_tiny_recipe_comes_behind_what_it_builds_on() -> None:
    names = [name for name in built_in() if name.endswith("-tiny")]
    done = module_of(SCRIPTS / "losses.py").in_order(names)
    assert sorted(done) == sorted(names)
    for name in names:
        for needed in load_recipe(name).requires.values():
            assert needed in zoo() or done.index(Path(needed).name) < done.index(name), (name, needed)
    assert done.index("maskgit-tiny") < done.index("muse-tiny")
    assert done.index("unclip-embedding-tiny") < done.index("unclip-prior-tiny") < done.index("unclip-tiny")


def test_losses_are_compared_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script, file = SCRIPTS / "losses.py", tmp_path / "losses.json"
    trained = {"maskgit-tiny": [{"loss": 2.0}, {"loss": 1.0}], "mar-tiny": [{"loss": 3.0}]}
    monkeypatch.setattr(module_of(script), "losses_of", lambda name, *_: trained[name])
    for value, code, verdict in ((1.0, 0, "equal"), (math.nextafter(1.0, 2.0), 1, "DIFFERS from step 2")):
        file.write_text(json.dumps(trained | {"maskgit-tiny": [{"loss": 2.0}, {"loss": value}]}))
        with pytest.raises(SystemExit) as done:
            run_script(script, "compare", file, "--recipes", "maskgit-tiny")
        assert done.value.code == code
        assert f"maskgit-tiny: {verdict}" in capsys.readouterr().out


def test_outputs_are_recorded_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script, file = SCRIPTS / "outputs.py", tmp_path / "outputs.json"
    with pytest.raises(SystemExit) as done:
        run_script(script, "record", file, "--quick")
    assert done.value.code == 0
    recorded = json.loads(file.read_text())
    assert len(set(recorded["maskgit-emoji"].values())) == 4  # two pictures of each of two texts
    capsys.readouterr()
    for found, code, verdict in ((recorded["maskgit-emoji"], 0, "equal"), ({"0": "other"}, 1, "DIFFERS")):
        monkeypatch.setattr(module_of(script), "produced", lambda *_, found=found: found)
        with pytest.raises(SystemExit) as done:
            run_script(script, "compare", file, "--quick")
        assert done.value.code == code
        assert f"maskgit-emoji: {verdict}" in capsys.readouterr().out


def package(folder: Path) -> None:
    """Two emoji in three packages, as npm unpacks them; one drawing is filled in from elsewhere."""
    codes = {"1F600": "grinning face", "2764-FE0F": "red heart"}
    for language in ("en", "zh"):
        entries = [{"hexcode": code, "label": f"{label} {language}", "group": 0, "subgroup": 1} for code, label in codes.items()]
        write(folder / "emojibase-data" / language / "data.json", entries)
    write(folder / "emojibase-data" / "meta" / "groups.json", {"groups": {"0": "smileys"}, "subgroups": {"1": "faces"}})
    for sheet in ("google", "twitter"):
        base = folder / f"emoji-datasource-{sheet}"
        missing = "2764-FE0F" if sheet == "twitter" else None
        rows = [{"unified": code, "image": f"{code}.png", f"has_img_{sheet}": code != missing} for code in codes]
        write(base / "emoji.json", rows)
        for code in codes:
            path = base / "img" / sheet / "64" / f"{code}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (64, 64), (len(sheet), 40, int(code[:4], 16) % 256, 255)).save(path)


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_the_emoji_set_is_built_from_unpacked_packages(tmp_path: Path) -> None:
    package(tmp_path / "node_modules")
    run_script(SCRIPTS / "build_emoji.py", "--packages", tmp_path / "node_modules", "--out", tmp_path / "emoji.parquet")
    rows = pq.read_table(tmp_path / "emoji.parquet").to_pylist()
    assert [(row["hexcode"], row["style"]) for row in rows] == [("1F600", "Noto"), ("1F600", "Twemoji"), ("2764", "Noto")]
    assert rows[2]["caption"] == "red heart en, Noto style"
    assert (rows[2]["caption_zh"], rows[2]["group"]) == ("red heart zh", "smileys")


def test_a_run_is_shipped_with_figures_and_licence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rows = ["path,text,split,licence,attribution"]
    for index in range(20):
        Image.new("RGB", (8, 8), (12 * index, 90, 255 - 12 * index)).save(pictures / f"{index}.png")
        rows.append(f"{index}.png,colour {index},{'heldout' if index > 15 else 'train'},CC0,Ann & Co")
    (pictures / "metadata.csv").write_text("\n".join(rows) + "\n")
    run = quick().trained("maskgit-tiny", str(pictures))
    title = ("--title", "Small.", "--command", "jielong train maskgit-tiny", "--machine", "one core", "--count", 2)
    run_script(SCRIPTS / "ship_model.py", run, "maskgit-small", *title, "--into", tmp_path / "models", "--dtype", "int8")
    shipped = tmp_path / "models" / "maskgit-small"
    assert capsys.readouterr().out.strip() == str(shipped)
    card = (shipped / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert (metadata["library_name"], metadata["license"], metadata["pipeline_tag"]) == ("jielong", "apache-2.0", "text-to-image")
    assert card.split("\n---\n\n", 1)[1].startswith("# maskgit-small\n\nSmall.")
    assert card_line(shipped) == "Small."
    assert "```sh\njielong train maskgit-tiny\n```" in card
    assert "Ann & Co" in card
    assert "![4 first draws](draws.webp)" in card
    with Image.open(shipped / "draws.webp") as draws:
        assert draws.size == (4 * (8 + 2) + 2, 8 + 2 + 2)  # the four held-out items, two pixels between
    assert re.search(r"^\| file \| 0\.\d MB, matrices in int8 with a scale per row, the rest in bf16 \|$", card, re.M)
    assert torch.int8 in {value.dtype for value in load_file(shipped / "model.safetensors").values()}
    assert json.loads((shipped / "evaluation.json").read_text())["provenance"]
    assert [each.attribution for each in Licence.beside(shipped).learned_from] == ["Ann & Co"]
    system = load(str(shipped))
    assert system.generator is not None
    assert next(system.generator.parameters()).dtype.is_floating_point
    run_script(SCRIPTS / "shipped.py", "convert", "maskgit-small", "--dtype", "bf16", "--count", 3, "--in", shipped.parent)
    assert capsys.readouterr().out.strip() == str(shipped / "README.md")
    assert torch.int8 not in {value.dtype for value in load_file(shipped / "model.safetensors").values()}
    again = (shipped / "README.md").read_text()
    assert re.search(r"^\| file \| 0\.\d MB, bf16 \|$", again, re.M)
    assert "`jielong evaluate maskgit-small --count 3 --json`" in again
    evaluation = json.loads((shipped / "evaluation.json").read_text())
    assert evaluation["provenance"]["weights_sha256"] == fingerprint(load(str(shipped)).generator)
    assert evaluation["provenance"]["reference"]["n"] == 3
    assert evaluation["provenance"]["draws"]["evaluations_per_picture"] == {"backbone": 2 * system.recipe.order.steps, "head": 0}
    run_script(SCRIPTS / "shipped.py", "count", "maskgit-small", "--in", shipped.parent)
    with pytest.raises(SystemExit):
        run_script(SCRIPTS / "shipped.py", "time", "maskgit-small", "--in", shipped.parent)
    assert "seconds a picture" not in (shipped / "README.md").read_text()
    run_script(SCRIPTS / "shipped.py", "time", "maskgit-small", "--machine", "a machine", "--in", shipped.parent)
    measured = json.loads((shipped / "card.json").read_text())
    assert measured["evaluations"] == evaluation["provenance"]["draws"]["evaluations_per_picture"]
    assert measured["seconds"].keys() == {"1", "8"}
    assert 0 < measured["seconds"]["8"] < measured["seconds"]["1"]
    assert re.search(
        r"^\| seconds a picture \| [\d.]+ in a batch of 1, [\d.]+ in a batch of 8; a machine, one thread \|$",
        (shipped / "README.md").read_text(),
        re.M,
    )
    (shipped / "card.json").write_text('{"title": "Small."}')
    with pytest.raises(SystemExit):
        run_script(SCRIPTS / "shipped.py", "card", "--in", shipped.parent)
    assert "card.json does not say what the card needs" in capsys.readouterr().err


@pytest.mark.parametrize("name", zoo())
def test_the_card_of_a_shipped_model_is_what_is_written_from_its_files(name: str) -> None:
    folder = zoo()[name]
    assert (folder / "README.md").read_text("utf-8") == module_of(SCRIPTS / "shipped.py").card_of(folder)  # python scripts/shipped.py card


def test_a_tokenizer_keeps_its_weights(capsys: pytest.CaptureFixture[str]) -> None:
    before = (zoo()["vq-faces"] / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(SystemExit):
        run_script(SCRIPTS / "shipped.py", "convert", "vq-faces", "--dtype", "int8")
    assert "vq-faces is a tokenizer" in capsys.readouterr().err
    assert (zoo()["vq-faces"] / "model.safetensors").stat().st_mtime_ns == before


def test_tensors_are_renamed_and_stay_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = {"places.0.weight": torch.randn(3, 5), "stretch.pace": torch.randn(7), "head.logits.weight": torch.randn(2, 2)}
    file = tmp_path / "model.safetensors"
    save_file(old, file)
    (tmp_path / "evaluation.json").write_text(module_of(SCRIPTS / "migrate_checkpoint.py").fingerprint(file))
    run_script(SCRIPTS / "migrate_checkpoint.py", tmp_path)
    new = load_file(file)
    assert set(new) == {"position_embeddings.0.weight", "durations.regulator.rate", "head.logits.weight"}
    pairs = {"position_embeddings.0.weight": "places.0.weight", "durations.regulator.rate": "stretch.pace"}
    assert all(torch.equal(new[name], old[pairs.get(name, name)]) for name in new)
    assert (tmp_path / "evaluation.json").read_text() == module_of(SCRIPTS / "migrate_checkpoint.py").fingerprint(file)
    capsys.readouterr()
    run_script(SCRIPTS / "migrate_checkpoint.py", tmp_path)
    assert capsys.readouterr().out.strip().endswith("0 tensors renamed")


def test_the_gallery_is_drawn(tmp_path: Path) -> None:
    run_script(DOCS / "make_gallery.py", "--quick", "--models", quick().trained("maskgit-tiny"), "--out", tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as gallery:
        assert len(gallery.getcolors(1 << 24) or ()) > 100


def test_the_page_of_systems_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = module_of(DOCS / "make_systems.py")
    run_script(DOCS / "make_systems.py", "--check")
    monkeypatch.setattr(script, "PAGE", tmp_path / "systems.md")
    script.PAGE.write_text("old")
    with pytest.raises(SystemExit, match="out of date"):
        run_script(DOCS / "make_systems.py", "--check")
    run_script(DOCS / "make_systems.py")
    run_script(DOCS / "make_systems.py", "--check")


def test_the_fingerprint_of_a_file_is_that_of_its_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert module_of(SCRIPTS / "migrate_checkpoint.py").fingerprint(tmp_path / "model.safetensors") == fingerprint(model)


def test_figures_of_the_code_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    run_script(SCRIPTS / "measure_code.py")
    figures = dict(line.rsplit(": ", 1) for line in capsys.readouterr().out.splitlines())
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in (ROOT / "src" / "jielong").rglob("*.py"))
    assert int(figures["lines of src"]) == lines
    assert int(figures["files from an item to its loss"]) > 5
    assert 3 < int(figures["calls from command to head.sample"]) < 30
