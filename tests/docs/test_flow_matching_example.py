"""examples/flow_matching.py: short, of torch alone, and its network learns the velocity that is known exactly."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

EXAMPLE = Path(__file__).parents[2] / "examples" / "flow_matching.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


def exact(x: Tensor, time: Tensor, centers: Tensor, deviation: float) -> Tensor:
    """``E[x_1 - x_0 | x_t]`` of a mixture: that of each Gaussian, weighted by how likely it is."""
    variance = (1 - time) ** 2 + (time * deviation) ** 2
    off = x[:, None] - time[:, None] * centers
    weights = (-off.square().sum(-1) / (2 * variance)).softmax(-1)
    each = centers + ((time * deviation**2 - (1 - time)) / variance)[:, None] * off
    return (weights[..., None] * each).sum(1)


def test_it_is_sixty_lines_of_torch_alone() -> None:
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) <= 60
    imported = {name.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= {"torch", "matplotlib", "argparse", "math"}


def test_it_learns_the_exact_velocity(example: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network, centers, deviation = example["train"](400, 256), example["CENTERS"], example["DEVIATION"]
    time = torch.rand(4000, 1)
    x = torch.lerp(torch.randn(4000, 2), example["data"](4000), time)
    known = exact(x, time, centers, deviation)
    with torch.no_grad():
        found = network(torch.cat([x, time], -1))
    assert float((found - known).square().mean()) < 0.1 * float(known.square().mean())
    start = torch.randn(2000, 2)
    path = example["walk"](network, start)
    assert len(path) == 5
    torch.testing.assert_close(path[0], start)
    distances = [torch.cdist(points, centers).min(1).values.median() for points in path]
    assert float(distances[-1]) < 0.5 * float(distances[0])


def test_it_draws_its_arrows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "field.png"
    monkeypatch.setattr("sys.argv", ["flow_matching.py", "--steps", "20", "--out", str(out)])
    monkeypatch.setenv("MPLBACKEND", "Agg")
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    with Image.open(out) as picture:
        assert min(picture.size) > 300
        colors = picture.convert("RGB").getcolors(1 << 20) or []
    reddish = sum(count for count, (red, green, blue) in colors if red > 200 and green < 150 and blue < 100)  # the noise's dots
    bluish = sum(count for count, (red, green, blue) in colors if blue > red + 40)  # the last arrows
    assert reddish > 100
    assert bluish > 100
