"""The figures that apply, against the same figures computed by hand, and how they were made."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.tokens import Layout, Tokens
from jielong.data import open_data
from jielong.evaluation.attributes import AttributeJudge
from jielong.evaluation.context import DrawSettings
from jielong.evaluation.evaluate import evaluate
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.frechet import frechet
from jielong.evaluation.reconstruction import psnr
from jielong.evaluation.usage import codebook_usage
from jielong.system import load
from jielong.training.checkpoint import fingerprint

from .conftest import command, succeed

JUDGE = Path(import_module("jielong_zoo").path()) / "models" / "judge-faces"


def test_a_tokenizer_on_the_held_out_split(tokenizer: Path, pictures: Path) -> None:
    result = succeed("evaluate", tokenizer, "--json")
    report = json.loads(result.stdout)  # exactly one object, and nothing else
    system = load(str(tokenizer))
    real = open_data(pictures, size=16, split="heldout").media(range(6))
    tokens = system.encode(real)
    assert report["psnr"] == pytest.approx(psnr(system.decode(tokens), real).value)
    assert report["codebook_usage"] == len(tokens.values.unique()) / 64
    assert "ssim" in report
    assert not {"frechet", "retrieval_at_1", "retrieval_at_1_real"} & report.keys()
    provenance = report["provenance"]
    assert provenance["weights_sha256"] == fingerprint(system.tokenizer)
    assert provenance["reference"]["split"] == "heldout"
    assert provenance["reference"]["n"] == 6
    assert provenance["weights"].startswith("EMA weights")
    assert {"torch", "jielong"} <= provenance["versions"].keys()
    assert provenance["figures"]["psnr"]["rounding"] == "8 bits, nearest"
    assert report["seconds"] > 0


def test_a_generator_draws_one_picture_a_held_out_class(chain: Path, pictures: Path) -> None:
    done = succeed("evaluate", chain, "--json", "--seed", 3, "--guidance", "1.5")
    report = json.loads(done.stdout)
    assert "small sample" not in done.stderr  # beside its figure alone
    system = load(str(chain))
    images = open_data(pictures, size=16, split="heldout")
    classes = [images.classes[label] for label in images.labels if label is not None]
    generated = system.generate(classes=classes, seed=3, guidance=1.5).tensor
    assert report["frechet"] == pytest.approx(frechet(generated, images.media(range(6))).value, rel=1e-4)
    assert not {"psnr", "codebook_usage", "retrieval_at_1"} & report.keys()
    assert "takes none" in report["provenance"]["omitted"]["retrieval_at_1"]
    drawing = report["provenance"]["draws"]
    assert drawing["seed"] == 3
    assert drawing["guidance"]["scale"] == 1.5
    figure = report["provenance"]["figures"]["frechet"]
    assert figure["features"]["weights_sha256"]
    assert figure["n_generated"] == figure["n_reference"] == 6
    assert "small sample" in figure["warning"]
    assert report["provenance"]["tokenizer_sha256"] == fingerprint(system.tokenizer)


def test_figures_are_the_same_for_the_same_seed_and_fewer_items(painter: Path) -> None:
    report = [json.loads(succeed("evaluate", painter, "--json", "-n", 3, "--steps", 2).stdout) for _ in range(2)]
    assert report[0]["frechet"] == report[1]["frechet"]
    assert report[0]["provenance"]["reference"]["n"] == 3
    assert report[0]["provenance"]["draws"]["steps"] == 2
    # Nine captions are held out in three classes, and the scorer is trained on the set's own training pictures.
    figure = report[0]["provenance"]["figures"]["retrieval_at_1"]
    assert figure["candidates"] == figure["pool"] == 6
    assert figure["chance"] == pytest.approx(1 / 6)
    assert figure["scorer"]["pictures"] == report[0]["provenance"]["figures"]["memorised"]["training_items"]


def test_the_table_of_a_generator_has_real_items_chance_classes_and_pairs(painter: Path, tmp_path: Path) -> None:
    result = succeed("evaluate", painter, "--steps", 2, "--sheet", tmp_path / "pairs.png")
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "of 6 captions; chance 16.7%" in lines["retrieval_at_1"]
    assert "chance 14.3%" in lines["memorised"]  # the nearest of 6 held-out pictures, and one more
    assert lines["red"].split()[1] == "2"
    with Image.open(tmp_path / "pairs.png") as sheet:
        assert sheet.width > 6 * 2 * 8
    wrong = command("evaluate", painter, "--sheet", tmp_path / "pairs.txt")
    assert wrong.exit_code == 2
    assert "image file" in wrong.stderr


def test_the_table_names_every_figure(tokenizer: Path) -> None:
    result = succeed("evaluate", tokenizer)
    assert "psnr" in result.stdout
    assert "dB" in result.stdout


class ByColour:
    """A judge that knows the colour of a picture by its mean, and of a caption by its word."""

    def __init__(self) -> None:
        self.extractor = FeatureExtractor()

    def __call__(self, pictures: Tensor, captions: list[str]) -> Tensor:
        wanted = torch.tensor([[("red" in c), ("green" in c), ("blue" in c)] for c in captions]).float()
        return pictures.mean((2, 3)) @ wanted.T


def test_retrieval_shows_real_and_generated_pictures_the_same_captions(painter: Path, pictures: Path) -> None:
    system = load(str(painter))
    judge = ByColour()
    measured = evaluate(system, count=6, candidates=6, scorer=judge)  # type: ignore[arg-type]
    report = measured.to_json()
    # Two held-out captions a colour: the judge cannot tell them apart, and a tie is a miss.
    assert report["retrieval_at_1_real"] == 0.0
    assert measured.figures["retrieval_at_1"].details["pool"] == measured.figures["retrieval_at_1_real"].details["pool"] == 6
    assert 0 <= report["retrieval_at_1"] <= 1


def test_attributes_are_judged_where_the_set_has_them_and_pictures_come_from_captions(painter: Path, pictures: Path) -> None:
    draws = DrawSettings(sampling=SamplingConfig(steps=1))
    measured = evaluate(load(str(painter)), "faces?style=micah", count=4, draws=draws, known=16)
    for name in ("attribute_accuracy", "attribute_accuracy_real"):
        figure = measured.figures[name]
        assert figure.n == 4
        assert 0 <= figure.value <= 1
        assert figure.details["judge"] == {"data": "faces", "sha256": AttributeJudge.load(JUDGE).record.sha256}
    named = [measured.figures[name].details["named"] for name in ("attribute_accuracy", "attribute_accuracy_real")]
    assert named[0] == named[1]
    assert "attribute_accuracy" not in evaluate(load(str(painter)), count=3, draws=draws).figures


def test_a_set_that_does_not_fit_is_refused(painter: Path, chain: Path, tmp_path: Path, pictures: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for place, path in enumerate(sorted(pictures.rglob("*.png"))[:5]):
        (plain / f"{place}.png").write_bytes(path.read_bytes())
    for checkpoint, words in ((painter, "needs a caption for every item"), (chain, "needs a class for every item")):
        result = command("evaluate", checkpoint, "--data", plain, "--json")
        assert result.exit_code == 1
        assert words in result.stderr
        assert result.stdout == ""


def test_usage_of_codes() -> None:
    codes = torch.tensor([[0, 0, 1, 1], [2, 2, 3, 3]])[..., None]
    measured = codebook_usage(Tokens(codes, Layout((2, 2), 1, 16)))
    assert measured.value == 4 / 16
    assert measured.details["perplexity"] == pytest.approx(4.0)
    assert "small sample" in measured.details["warning"]
    two = torch.stack([torch.arange(4), torch.zeros(4, dtype=torch.long)], -1)[None]  # one codebook full, one with a single code
    assert codebook_usage(Tokens(two, Layout((2, 2), 2, 4))).value == (1 + 0.25) / 2
    with pytest.raises(ValueError, match="no codebook"):
        codebook_usage(Tokens(torch.zeros(1, 4, 2), Layout((2, 2), 2)))


def test_settings_of_the_draws_are_checked(painter: Path) -> None:
    with pytest.raises(ValueError, match="at least one item"):
        evaluate(load(str(painter)), count=0, draws=DrawSettings())
