"""Pictures to compare on."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

COLOURS = {"red": (220, 40, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 pictures to train on and 9 held out, in classes."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 12), ("heldout", 3)):
        for name, colour in COLOURS.items():
            for place in range(count):
                image = Image.new("RGB", (16, 16), "white")
                image.paste(colour, (place % 5, place % 7, place % 5 + 8, place % 7 + 8))
                path = root / split / name / f"{place}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    return root
