"""Completion from a half, and exact likelihoods: pixel by pixel, and for the other generators as far as it applies."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from jielong.data import open_data
from jielong.evaluation.likelihood import bits_per_dimension
from jielong.media.images import fit, to_tensor
from jielong.media.reading.pictures import read_image
from jielong.networks.backbone import BackboneInputs
from jielong.system import load

from .conftest import brief, command, succeed


@pytest.fixture(scope="session")
def sprites(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A PixelCNN of 8 x 8 pixels of 8 levels, colour by colour, from words."""
    out = tmp_path_factory.mktemp("runs") / "sprites"
    succeed("train", "pixelcnn-emoji-tiny", "--data", pictures, "--out", out, *brief())
    return out


@pytest.mark.parametrize("which", ["sprites", "painter"])
def test_the_kept_half_is_the_pictures_and_the_other_is_drawn(
    which: str, pictures: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    checkpoint = request.getfixturevalue(which)
    given = pictures / "train" / "red" / "0.png"
    words = ("generate", checkpoint, "--text", "a red square", "--text", "a blue square", "-n", 2, "--complete", given)
    succeed(*words, "--out", tmp_path / "a")
    succeed(*words, "--out", tmp_path / "b", "--seed", 1, "--trace")
    real = to_tensor(fit(read_image(given), (8, 8)))
    system = load(str(checkpoint))
    coarse = system.decode(system.encode(real[None]))[0]
    outputs = [sorted((tmp_path / folder).glob("[0-9]*.png")) for folder in "ab"]
    assert len(outputs[0]) == len(outputs[1]) == 4
    pictured = torch.stack([to_tensor(read_image(path)) for files in outputs for path in files])
    torch.testing.assert_close(pictured[:, :, :4], coarse[:, :4].expand(8, -1, -1, -1), rtol=0, atol=0.01)
    assert len(pictured[:, :, 4:].flatten(1).unique(dim=0)) > 2


def test_a_masked_generator_keeps_any_half_and_a_learned_tokenizer_its_codes(pictures: Path, painter: Path, chain: Path) -> None:
    (real,) = open_data(pictures, size=8, split="train").media([9]).unbind(0)
    system = load(str(painter))
    coarse = system.decode(system.encode(real[None]))[0]
    completed = system.complete(real, "right", text="a square", count=2).tensor
    torch.testing.assert_close(completed[..., 4:], coarse[..., 4:].expand(2, -1, -1, -1))
    system = load(str(chain))
    (real,) = open_data(pictures, size=16, split="train").media([9]).unbind(0)
    tokens = system.encode(real[None]).values
    seen: list[torch.Tensor] = []
    system.complete(real, classes="red", on_step=lambda moment: seen.append(moment.values))
    assert len(seen) == 8  # of 16 codes, the lower half
    assert torch.equal(seen[-1][:, :8], tokens[:, :8])


def test_what_cannot_be_completed_is_refused(pictures: Path, sprites: Path, tokenizer: Path, tmp_path: Path) -> None:
    given = pictures / "train" / "red" / "0.png"
    for words, reason in (
        (("generate", sprites, "--complete", given, "--keep", "lower"), "before it sees the lower half"),
        (("generate", tokenizer, "--complete", given), "is a tokenizer; to complete an item, load a generator"),
        (("generate", sprites, "--complete", pictures / "train" / "red" / "0.txt"), "cannot be read as a picture"),
        (("generate", sprites, "--complete", given, "--class", "red"), "takes --text, not --class"),
    ):
        refused = command(*words, "--out", tmp_path / "out")
        assert refused.exit_code == 1
        assert reason in refused.stderr
        assert not (tmp_path / "out").exists()


def test_bits_per_dimension_are_those_of_every_colour(pictures: Path, sprites: Path) -> None:
    report = json.loads(succeed("evaluate", sprites, "--json").stdout)
    system = load(str(sprites))
    model = system.generator
    assert model is not None
    assert model.condition is not None
    images = open_data(pictures, size=8, split="heldout")
    total = 0.0
    for index in range(6):
        values = system.encode(images.media([index])).values
        conditioning = model.condition(model.condition.prepare([images.captions[index]]))
        inputs = model.embeddings(values, torch.ones(1, 192, dtype=torch.bool), slice(0, 192), model.position_vectors(model.plan))
        scores = model.head.scores(model.backbone(BackboneInputs(inputs, model.plan.coords, model.plan.blocks, conditioning)))  # type: ignore[operator]
        total -= float(scores[0, :, 0].double().log_softmax(-1).gather(1, values[0]).sum())
    assert report["bits_per_dimension"] == pytest.approx(total / (6 * 192 * math.log(2)), rel=1e-5)
    figure = report["provenance"]["figures"]["bits_per_dimension"]
    assert (figure["n"], figure["dimensions"], figure["levels"], figure["condition"]) == (6, 192, 8, "text")
    assert "8 levels" in figure["warning"]
    assert "bits_per_dimension" in succeed("evaluate", sprites).stdout


def test_bits_per_dimension_are_left_out_where_the_loss_is_no_likelihood(painter: Path, chain: Path) -> None:
    for checkpoint, reason in ((painter, "does not draw one position after the other"), (chain, "its tokens are not pixels")):
        report = json.loads(succeed("evaluate", checkpoint, "--json", "-n", 2).stdout)
        assert "bits_per_dimension" not in report
        assert reason in report["provenance"]["omitted"]["bits_per_dimension"]
        system = load(str(checkpoint))
        with pytest.raises(ValueError, match=reason):
            bits_per_dimension(system, torch.zeros(1, *system.tokenizer.media.shape))


def test_a_smoothed_loss_is_no_likelihood(sprites: Path) -> None:
    system = load(str(sprites))
    assert system.generator is not None
    assert system.generator.head.nats_a_value(1.5) == 1.5
    system.generator.head.label_smoothing = 0.1  # type: ignore[assignment]
    with pytest.raises(ValueError, match="its head's loss is not a likelihood"):
        bits_per_dimension(system, torch.zeros(1, 3, 8, 8), ["a"])


def test_the_figure_does_not_depend_on_the_batch(sprites: Path, pictures: Path) -> None:
    system, images = load(str(sprites)), open_data(pictures, size=8, split="heldout")
    values = [bits_per_dimension(system, images.media(range(6)), list(images.captions), batch).value for batch in (1, 4, 64)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)
