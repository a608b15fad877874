"""Generated pictures as objects."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from jielong.data.opening import open_data
from jielong.media.images import to_bytes, to_float
from jielong.media.pictures import Pictures


@pytest.fixture
def pictures() -> Pictures:
    pixels = torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Pictures(to_float(pixels), ["a <cat>", "a dog", "a bird"])


def test_is_a_list_of_pictures(pictures):
    assert len(pictures) == 3
    assert [p.caption for p in pictures] == ["a <cat>", "a dog", "a bird"]
    assert pictures[-1].caption == "a bird"
    assert [p.caption for p in pictures[1:]] == ["a dog", "a bird"]
    with pytest.raises(IndexError):
        pictures[3]


def test_saved_folder_opens_again_as_the_same_set(pictures, tmp_path):
    written = pictures.save(tmp_path / "out")
    assert [p.name for p in written] == ["0000.png", "0001.png", "0002.png"]
    again = open_data(tmp_path / "out", size=8)
    batch = again.batch(range(3))
    assert torch.equal(to_bytes(batch.media), to_bytes(pictures.tensor))
    assert batch.captions == pictures.captions


def test_saved_file_is_one_sheet(pictures, tmp_path):
    (path,) = pictures.save(tmp_path / "sheet.png")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(pictures.sheet()))


def test_shows_itself_in_notebooks(pictures):
    assert Image.open(io.BytesIO(pictures[0]._repr_png_())).size == (8, 8)
    assert Image.open(io.BytesIO(pictures._repr_png_())).width > 24
    page = pictures._repr_html_()
    assert page.count("<img") == 3
    assert "a &lt;cat&gt;" in page
    assert "<cat>" not in page


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="B, 1 or 3"):
        Pictures(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="captions"):
        Pictures(torch.zeros(2, 1, 8, 8), ["one"])
