"""What the tests of cascades share: pictures of noise, and training of a stage after the other."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from jielong.config.recipe import parse
from jielong.media.images import from_tensor
from jielong.training import experiment


def noise_pictures(root: Path, side: int) -> Path:
    """Eight pictures for training and three held out, each with a caption: detail that no resampling keeps."""
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("heldout", 3)):
        for number in range(count):
            path = root / split / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            from_tensor(torch.randint(256, (3, side, side), generator=draw, dtype=torch.uint8)).save(path)
            path.with_suffix(".txt").write_text(f"noise {number}")
    return root


def train_stages(root: Path, recipes: Mapping[str, str], pictures: Path) -> None:
    """Train the stages in their order, each in a folder of its name, with a cache of their own."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JIELONG_CACHE", str(root / "cache"))
        for name, text in recipes.items():
            experiment.run(parse(text), root / name, data=str(pictures), device="cpu", progress=False, evaluate=False)
