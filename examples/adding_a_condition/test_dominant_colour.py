"""The colour condition: colours of known pictures, and a tiny model trained, sampled and evaluated by Python and by command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dominant_colour import Colour, dominant_colours
from PIL import Image
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.system import System, load

COLOURS = {"red": (1.0, -1.0, -1.0), "lime": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0)}
RECIPE = """\
data: {{set: {folder}, size: 4}}
tokenizer: {{pixels: {{levels: 2}}}}
condition: {{colour: {{width: 16}}}}
order: raster
backbone: {{transformer: {{layers: 1, width: 32, heads: 2, condition: prefix}}}}
head: softmax
train: {{samples: 2048, batch: 32, lr: 1.0e-2, warmup: 128, ema: 0.0}}
"""


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model in ``run``."""
    root = tmp_path_factory.mktemp("colours")
    (root / "pictures").mkdir()
    for index in range(60):
        picture = Image.new("RGB", (4, 4), list(COLOURS)[index % 3])
        picture.putpixel((index % 4, index // 4 % 4), (0, 0, 0))
        picture.save(root / "pictures" / f"{index}.png")
    (root / "colours.yaml").write_text(RECIPE.format(folder=root / "pictures"))
    run("train", root / "colours.yaml", "--out", root / "run", "--device", "cpu")
    return root


@pytest.fixture(scope="module")
def system(folder: Path) -> System:
    return load(str(folder / "run"))


def test_dominant_colours_of_known_pictures():
    images = torch.full((2, 3, 4, 4), -0.75)
    images[0, 0, :3] = 0.5  # 12 of 16 pixels
    images[1, 2, 0] = 0.9  # 4 of 16
    torch.testing.assert_close(dominant_colours(images), torch.tensor([[0.5, -0.75, -0.75], [-0.75, -0.75, -0.75]]))


def test_names_and_vectors():
    condition = Colour(width=4).build()
    torch.testing.assert_close(
        condition.prepare(["#ff0000", torch.tensor(COLOURS["blue"])]), torch.tensor([COLOURS["red"], COLOURS["blue"]])
    )
    with pytest.raises(ValueError, match="unknown color specifier: 'reed'"):
        condition.prepare(["reed"])


def test_a_trained_model_draws_the_colour(system: System):
    drawn = system.generate(colour=list(COLOURS), count=2, seed=1)
    assert [picture.caption for picture in drawn] == ["red", "red", "lime", "lime", "blue", "blue"]
    wanted = torch.tensor([value for value in COLOURS.values() for _ in range(2)])
    assert torch.equal(dominant_colours(drawn.tensor).sign(), wanted)
    assert torch.equal(system.generate(colour="red", seed=1).tensor, drawn.tensor[:1])
    with pytest.raises(ValueError, match="takes `colour`, not `text`"):
        system.generate("red")


def test_the_command_line_has_an_option(folder: Path, system: System):
    run("generate", folder / "run", "--colour", "blue", "--seed", 3, "--out", folder / "blue.png", "--device", "cpu")
    shown = torch.from_numpy(np.array(Image.open(folder / "blue.png").convert("RGB"))).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(shown, system.generate(colour="blue", seed=3).tensor[0].clamp(-1, 1), atol=0.01, rtol=0)
    refused = CliRunner().invoke(app, ["generate", str(folder / "run"), "--colour", "reed"])
    assert refused.exit_code == 2
    assert "--colour" in refused.stderr


def test_it_is_evaluated_on_held_out_colours(folder: Path):
    figures = json.loads(run("evaluate", folder / "run", "--json", "--device", "cpu"))
    assert 0 < figures["bits_per_dimension"] < 1, "two levels are one bit without a model"
