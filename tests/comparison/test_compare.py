"""Comparisons of tiny recipes, end to end: equal budgets, the same figures as ``evaluate``, and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.apps.comparison import Budget, Comparison, compare
from jielong.apps.comparison.checking import common_medium
from jielong.apps.comparison.measuring import coding_time
from jielong.apps.comparison.report import html, markdown, write
from jielong.apps.comparison.running import Row
from jielong.apps.comparison.table import COLUMNS, best, columns, remarks
from jielong.data import open_data
from jielong.data.source import DataError
from jielong.evaluation.evaluate import evaluate
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.frechet import frechet
from jielong.evaluation.reconstruction import perceptual_distance
from jielong.system import load
from jielong.training import experiment

BUDGET = Budget(samples=32)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> tuple[Comparison, Path]:
    out = tmp_path_factory.mktemp("comparison")
    return compare(["vqgan-tiny", "fsq-tiny"], out, BUDGET, data=str(pictures), device="cpu"), out


def test_every_figure_is_that_of_evaluate(compared: tuple[Comparison, Path], pictures: Path) -> None:
    comparison, out = compared
    assert comparison.complete
    assert [row.label for row in comparison.rows] == ["vqgan-tiny", "fsq-tiny"]
    real = open_data(str(pictures), size=16, split="heldout").media(range(9))
    for row in comparison.rows:
        system = load(str(out / "runs" / row.label))
        measured = evaluate(system, str(pictures))
        assert row.figures["psnr"] == pytest.approx(measured.figures["psnr"].value)
        assert row.figures["codebook_usage"] == measured.figures["codebook_usage"].value
        rebuilt, eyes = system.decode(system.encode(real)), FeatureExtractor()
        assert row.figures["perceptual"] == pytest.approx(perceptual_distance(rebuilt, real, eyes).value, rel=1e-4)
        assert row.figures["frechet"] == pytest.approx(frechet(rebuilt, real, eyes).value, rel=1e-3)
        assert row.figures["bits"] == system.tokenizer.layout.bits
        assert row.figures["samples"] == 32
        assert row.figures["encode_ms"] > 0
        assert row.provenance["weights_sha256"] == measured.provenance["weights_sha256"]
        assert {"psnr", "perceptual", "frechet"} <= row.provenance["figures"].keys()
        assert row.provenance["coding_time"]["batch"] == 16


def test_what_is_there_is_not_made_again(compared: tuple[Comparison, Path], pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, out = compared
    messages: list[str] = []
    monkeypatch.setattr("jielong.apps.comparison.running.measure", None)  # calling it would raise
    again = compare(["vqgan-tiny", "fsq-tiny"], out, BUDGET, data=str(pictures), device="cpu", log=messages.append)
    assert [row.figures for row in again.rows] == [row.figures for row in before.rows]
    assert not any("measuring" in line for line in messages)


def test_interrupted_comparison_resumes(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of the first training; the second call ends with what an uninterrupted one gives."""
    whole = experiment.run

    def stopped(*arguments: object, **options: object) -> object:
        return whole(*arguments, stop_after=16, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(experiment, "run", stopped)
    first = compare(["vqgan-tiny"], tmp_path / "broken", BUDGET, data=str(pictures), device="cpu")
    assert not first.complete
    assert not first.rows
    monkeypatch.setattr(experiment, "run", whole)
    second = compare(["vqgan-tiny"], tmp_path / "broken", BUDGET, data=str(pictures), device="cpu")
    straight = compare(["vqgan-tiny"], tmp_path / "straight", BUDGET, data=str(pictures), device="cpu")
    assert second.complete
    assert second.rows[0].provenance["weights_sha256"] == straight.rows[0].provenance["weights_sha256"]


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = experiment.run

    def fragile(recipe: object, out: Path, *arguments: object, **options: object) -> object:
        if out.name == "vqgan-tiny":
            raise ValueError("it diverged")
        return whole(recipe, out, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(experiment, "run", fragile)
    comparison = compare(["vqgan-tiny", "fsq-tiny"], tmp_path, BUDGET, data=str(pictures), device="cpu")
    assert [row.failed for row in comparison.rows] == ["it diverged", None]
    assert not comparison.complete
    assert "vqgan-tiny failed: it diverged" in remarks(comparison.rows)
    assert "it diverged" in markdown(comparison, "jielong compare")


def test_what_does_not_compare_is_refused(compared: tuple[Comparison, Path], tmp_path: Path, pictures: Path) -> None:
    _, out = compared
    with pytest.raises(ValueError, match="budget was 32 samples and is now 64 samples"):
        compare(["vqgan-tiny"], out, Budget(samples=64), data=str(pictures))
    with pytest.raises(ValueError, match=r"different size \(vqgan-tiny: 16, vqgan: 64\)"):
        compare(["vqgan-tiny", "vqgan"], tmp_path, BUDGET, data="emoji")
    with pytest.raises(ValueError, match="different data sets"):
        compare(["vqgan", "pixelcnn"], tmp_path, BUDGET)
    assert not (tmp_path / "runs").exists()


def test_generators_and_checkpoints_beside_each_other(compared: tuple[Comparison, Path], tmp_path: Path, pictures: Path) -> None:
    _, out = compared
    tokenizer = out / "runs" / "vqgan-tiny"
    parts = ["data.size=16", f"tokenizer={{checkpoint: {tokenizer}}}", "condition={class: {width: 16}}"]
    comparison = compare(["maskgit-tiny", "llamagen-tiny"], tmp_path, BUDGET, data=str(pictures), overrides=parts, count=6, device="cpu")
    for row in comparison.rows:
        assert row.failed is None, row.failed
        assert row.figures["seconds_per_picture"] > 0
        assert row.figures["frechet"] > 0
        assert min(row.figures[name] for name in ("precision", "recall", "coverage", "memorised")) >= 0
        assert (tmp_path / "sheets" / f"{row.label}.nearest.png").exists()
        assert "psnr" not in row.figures
    both = compare([str(tokenizer), str(tmp_path / "runs" / "maskgit-tiny")], tmp_path / "both", BUDGET, data=str(pictures), count=6)
    assert [row.kind for row in both.rows] == ["tokenizer", "generator"]
    assert all("checkpoint, trained" in " ".join(row.notes) for row in both.rows)
    page = html(both, "jielong compare")
    assert "<h2>Tokenizers</h2>" in page
    assert "<h2>Generators</h2>" in page


def test_pages_have_no_external_resources(compared: tuple[Comparison, Path]) -> None:
    comparison, out = compared
    paths = write(comparison, "jielong compare vqgan-tiny fsq-tiny --samples 32")
    assert [path.name for path in paths] == ["comparison.json", "comparison.md", "comparison.html"]
    page = paths[2].read_text("utf-8")
    assert page.count("data:image/png;base64,") == 3  # the originals and two strips
    assert "http" not in page.replace("http-equiv", "")
    text = paths[1].read_text("utf-8")
    for label in ("original", "vqgan-tiny", "fsq-tiny"):
        assert f"(sheets/{label}.png)" in text
        with Image.open(out / "sheets" / f"{label}.png") as strip:
            assert strip.width > 8 * 16
    record = json.loads(paths[0].read_text("utf-8"))
    assert record["command"].startswith("jielong compare")
    assert record["rows"][0]["provenance"]["reference"]["n"] == 9


def test_the_command_line(tmp_path: Path, pictures: Path) -> None:
    words = ["compare", "vqgan-tiny", "--samples", "16", "--data", str(pictures), "--out", str(tmp_path), "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["rows"][0]["figures"]["samples"] == 16
    narrow = CliRunner().invoke(app, words, env={"COLUMNS": "60"})
    assert "PSNR, dB" in narrow.stdout
    both = CliRunner().invoke(app, [*words, "--budget", "3m"])
    assert both.exit_code == 2


def rows(**psnr: float) -> list[Row]:
    return [Row(label, "tokenizer", "", {"psnr": value, "bits": 640.0}) for label, value in psnr.items()]


def test_the_best_are_those_that_look_best() -> None:
    (column,) = columns("tokenizer", rows(a=20.0))[1:]
    assert column.name == "psnr"
    assert best(column, rows(a=20.001, b=20.003, c=19.0)) == {"a", "b"}  # as written, they are equal
    assert best(column, rows(a=20.0)) == set()
    assert best(COLUMNS["tokenizer"][0], rows(a=1, b=2)) == set()  # fewer bits are neither better nor worse


def test_continuous_tokens_have_a_number_of_channels_instead_of_bits() -> None:
    continuous = Row("c", "tokenizer", "", {"psnr": 30.0, "numbers": 1024, "positions": 64})
    bits = COLUMNS["tokenizer"][0]
    assert bits.cell(continuous) == "continuous, 64 x 16 channels"
    assert bits in columns("tokenizer", [continuous])
    assert best(bits, [continuous, *rows(a=1)]) == set()
    assert not any("continuous tokens" in note for note in remarks([continuous]))
    assert any("bits are not defined for continuous tokens" in note for note in remarks([continuous, *rows(a=1)]))


def test_what_judges_read_has_columns_and_reasons_are_said_once() -> None:
    one = Row("a", "generator", "", {"positions": 4, "solved": 0.5, "legal": 0.975, "seconds_per_item": 1.25})
    other = Row("b", "generator", "", {"positions": 4}, {"solved": "too small", "legal": "too small", "wer": "no text"})
    named = columns("generator", [one, other])
    assert [column.title for column in named] == ["tokens", "missions solved", "legal transitions", "s per item"]
    assert [column.cell(one) for column in named] == ["4", "50.0%", "97.5%", "1.250"]
    assert [column.cell(other) for column in named] == ["4", "-", "-", "-"]
    assert remarks([one, other]) == ["b: without solved, legal: too small", "b: without wer: no text"]


def test_unequal_bits_are_noted() -> None:
    unequal = [*rows(a=1), Row("b", "tokenizer", "", {"bits": 384.0})]
    assert any("384 to 640" in note for note in remarks(unequal))
    assert not remarks(rows(a=1, b=2))


def test_coding_time_is_of_a_whole_batch(compared: tuple[Comparison, Path]) -> None:
    system = load(str(compared[1] / "runs" / "vqgan-tiny"))
    costs, how = coding_time(system, torch.zeros(3, 3, 16, 16))
    assert costs.keys() == {"encode_ms", "decode_ms"}
    low, high = how["encode_ms_range"]
    assert low <= costs["encode_ms"] <= high


def test_a_budget_of_time_is_spent_to_its_end(tmp_path: Path, pictures: Path) -> None:
    """The recipe's own 512 samples are no limit."""
    (row,) = compare(["vqgan-tiny"], tmp_path, Budget(seconds=2.0), data=str(pictures), device="cpu").rows
    assert row.training["stopped"] == "budget"
    assert row.figures["seconds"] <= 3


def test_no_line_is_wider_than_the_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from jielong.apps.commands import comparing

    many = [Row(f"contestant-{n}", "tokenizer", "", {"psnr": 20.0 + n, "bits": 640.0, "parameters": 1.5e6}) for n in range(9)]
    comparison = Comparison(many, {}, tmp_path, True)
    for width in (40, 80, 200):
        monkeypatch.setattr(comparing.results, "width", width)
        comparing._print(comparison)
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= width
        assert sum("28.00" in line for line in lines) == 1
        assert "1.50" in " ".join(lines)
        assert "…" not in " ".join(lines)


def test_a_set_that_holds_nothing_out_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "run", None)  # calling it would raise another error
    (tmp_path / "set" / "train").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "train" / "a.png")
    with pytest.raises(DataError, match="marks no item as 'heldout': all 1 are 'train'"):
        compare(["vqgan-tiny"], tmp_path / "out", BUDGET, data=str(tmp_path / "set"), device="cpu")


def test_different_media_are_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "run", None)
    with pytest.raises(ValueError, match=r"different kinds of media \(vqgan-tiny: image, encodec-tiny: audio\)"):
        common_medium({name: open_data("emoji" if "vq" in name else "sounds", "heldout") for name in ("vqgan-tiny", "encodec-tiny")})
    with pytest.raises(ValueError, match=r"different sample_rate \(encodec-tiny: 8000, encodec: 16000\).*set data.sample_rate for all"):
        compare(["encodec-tiny", "encodec"], tmp_path / "out", BUDGET, data="sounds", device="cpu")


def test_what_cannot_be_measured_fails_before_training(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recipe is built and measured untrained first: also the second one, whose fault a run of the first would precede."""
    monkeypatch.setattr(experiment, "run", None)
    bad = ["tokenizer.vq.autoencoder={convolutional: {patch: 2, channels: [8, 8, 8, 8, 8, 8], blocks: [1, 1, 1, 1, 1, 1]}}"]
    with pytest.raises(ValueError, match="vqgan-tiny: "):
        compare(["vqgan-tiny"], tmp_path, BUDGET, data=str(pictures), overrides=bad, device="cpu")
    assert not (tmp_path / "runs").exists()


def _fail(*arguments: object, **options: object) -> object:
    raise RuntimeError("no figure")


def test_a_metric_that_fails_does_so_before_training(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "run", None)
    monkeypatch.setattr("jielong.evaluation.pictures.psnr", _fail)
    with pytest.raises(ValueError, match="vqgan-tiny: no figure"):
        compare(["vqgan-tiny"], tmp_path, BUDGET, data=str(pictures), device="cpu")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_held_out_items_without_words_or_pixels_are_not_compared_on(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 3)):
        for place in range(count):
            path = tmp_path / "set" / split / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (90 * place, 10, 5 * count)).save(path)
            if (split, place) != ("test", 0):
                path.with_suffix(".txt").write_text("a colour")
    (tmp_path / "set/test/1.png").write_bytes((tmp_path / "set/test/1.png").read_bytes()[:-30])
    found = compare(["maskgit-tiny"], tmp_path / "out", BUDGET, data=str(tmp_path / "set"), device="cpu")
    assert found.rows[0].failed is None
    assert found.rows[0].provenance["reference"]["n"] == 1
