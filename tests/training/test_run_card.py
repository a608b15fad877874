"""What a finished run says of itself: its card and its loss curve."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from toy_run import run

from jielong.config import recipe
from jielong.core import plots
from jielong.data import licences
from jielong.data.licences import OWN
from jielong.system.model_card import ModelCard
from jielong.training import experiment, loss_curve
from jielong.training.loss_curve import CURVE, curves_of, draw_curve


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _whole_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """With axes and words, which are left out in other tests."""
    monkeypatch.setattr(loss_curve, "plot_png", plots.plot_png)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    rows = ["path,text,split,licence,attribution"]
    for index in range(24):
        Image.new("RGB", (8, 8), (10 * index, 90, 255 - 10 * index)).save(root / f"{index}.png")
        rows.append(f"{index}.png,colour {index},{'heldout' if index > 17 else 'train'},CC0,Ann & Co")
    (root / "broken.png").write_bytes(b"no picture")
    rows.append("broken.png,broken,train,CC0,Ann & Co")
    (root / "cut.png").write_bytes((root / "0.png").read_bytes()[:60])  # its header is whole: training finds out
    rows.append("cut.png,cut off,train,CC0,Ann & Co")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.parametrize("licence", sorted({OWN, *licences._SHARE_ALIKE}))
def test_a_card_names_every_licence_of_weights(licence: str) -> None:
    card = ModelCard("name", "A model.", recipe.load("kl-tiny"), "image", {}, [], {"psnr": 20.0, "seconds": 3.0}, licence)
    facts = yaml.safe_load(str(card).split("---\n")[1])
    names = {"Arphic Public License": "arphic-1999"}  # of SPDX, where that is not the licence's own name
    assert facts["license"] == names.get(licence, licence.lower().replace(" ", "-"))
    assert [each["type"] for each in facts["model-index"][0]["results"][0]["metrics"]] == ["psnr"]  # how long it took is no figure


@pytest.mark.filterwarnings("ignore:.*broken")
def test_the_card_of_a_run_says_what_it_is(pictures: Path, tmp_path: Path) -> None:
    budget = ["train.samples=96", "train.sample_every=32", "train.batch=16", "train.warmup=16"]
    chosen = recipe.load("maskgit-tiny", budget)
    summary = experiment.run(chosen, tmp_path, str(pictures), device="cpu", progress=False, command="jielong train maskgit-tiny")
    _, metadata, text = (tmp_path / "README.md").read_text("utf-8").split("---\n", 2)
    facts = yaml.safe_load(metadata)
    assert (facts["library_name"], facts["license"], facts["pipeline_tag"]) == ("jielong", "apache-2.0", "text-to-image")
    assert "datasets" not in facts  # a folder's path is no name of a set
    result = facts["model-index"][0]["results"][0]
    assert result["metrics"] == [{"type": "heldout_loss", "value": summary.evaluation["heldout_loss"]}]
    assert result["dataset"]["split"] == "heldout"
    for words in (
        f"# {tmp_path.name}\n",
        "```sh\njielong train maskgit-tiny\n```",
        "training items, 6 held out",
        "2 broken (broken.png, cut.png)",
        f"| parameters | {summary.parameters:,} |",
        f"The run kept the {summary.kept['weights']} weights, heldout_loss",
        "on 6 items or fewer",
        "Ann & Co (CC0)",
    ):
        assert words in text, words
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert {"recipe.yaml", CURVE} < set(links)
    assert [link.startswith("samples/samples-") for link in links].count(True) == 1
    assert all((tmp_path / link).exists() for link in links)


def test_a_loss_curve_is_drawn_of_every_run_and_equal_logs_are_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(tmp_path / name)
    first, second = ((tmp_path / name / CURVE).read_bytes() for name in ("one", "two"))
    assert first == second
    with Image.open(tmp_path / "one" / CURVE) as picture:
        assert picture.width > picture.height > 300


def test_a_curve_has_the_figures_of_the_log(tmp_path: Path) -> None:
    lines = [{"samples": 10 * step, "loss": 1.0 / step, "lr": 0.1} for step in range(1, 6)]
    lines[2]["heldout_loss"], lines[4]["heldout_loss"] = 0.5, float("nan")
    lines[4]["heldout_psnr"] = 20.0
    loss, heldout, psnr = curves_of(lines)
    assert (loss.name, loss.samples, loss.values) == ("loss", [10, 20, 30, 40, 50], [1.0, 0.5, pytest.approx(1 / 3), 0.25, 0.2])
    assert (heldout.name, heldout.samples, heldout.values) == ("heldout_loss", [30], [0.5])  # what is not finite is left out
    assert (psnr.name, psnr.samples) == ("heldout_psnr", [50])
    log = tmp_path / "metrics.jsonl"
    for text in ("", "\n".join(json.dumps({"samples": 1, "lr": 0.1}) for _ in range(2)), "\n".join(map(json.dumps, lines))):
        log.write_bytes(text.encode() + b'\n{"samples": 60, "loss": 0.1\x00\xff\n3\n')  # damaged lines are left out
        assert draw_curve(log).stat().st_size > 0
