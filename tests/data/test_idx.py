"""Fashion-MNIST from tiny files of its format."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from jielong.data.idx import FASHION_CLASSES, open_fashion_mnist
from jielong.data.opening import open_data
from jielong.data.sets import MediaSet
from jielong.data.source import DataError
from jielong.media.images import to_bytes
from jielong.media.kinds.image import image_medium


def write(folder: Path, zipped: bool = True, size: tuple[int, int] = (28, 28)) -> dict[str, np.ndarray]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    pictures = {"train": rng.integers(0, 256, (6, *size), dtype=np.uint8), "t10k": rng.integers(0, 256, (3, *size), dtype=np.uint8)}
    for part, array in pictures.items():
        images = struct.pack(">BBBBIII", 0, 0, 8, 3, *array.shape) + array.tobytes()
        labels = struct.pack(">BBBBI", 0, 0, 8, 1, len(array)) + bytes(range(len(array)))
        for name, data in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    return pictures


@pytest.mark.parametrize(("zipped", "size"), [(True, (28, 28)), (False, (28, 28)), (False, (20, 28))])
def test_pixels_classes_and_splits(tmp_path, zipped, size):
    pictures = write(tmp_path / "fashion", zipped, size)
    train, heldout = (open_data(tmp_path / "fashion", split=split) for split in ("train", "heldout"))
    assert train.medium == image_medium(1, size)
    assert np.array_equal(to_bytes(train.media(range(6)))[:, 0].numpy(), pictures["train"])
    assert np.array_equal(to_bytes(heldout.media(range(3)))[:, 0].numpy(), pictures["t10k"])
    assert train.classes == FASHION_CLASSES
    assert heldout.labels == [0, 1, 2]
    assert heldout.captions[2] == "pullover"
    assert MediaSet(open_fashion_mnist(tmp_path / "fashion"), image_medium(3, (32, 32))).media([0]).shape == (1, 3, 32, 32)


def test_absence_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match="apt install dataset-fashion-mnist"):
        open_fashion_mnist(tmp_path / "nowhere")


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_is_named(tmp_path, zipped):
    write(tmp_path / "f", zipped)
    path = tmp_path / "f" / ("train-images-idx3-ubyte" + ".gz" * zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"train-images.*(truncated|not a whole gzip)"):
        open_data(tmp_path / "f")
    path.write_bytes(gzip.compress(b"something else") if zipped else b"something else")
    with pytest.raises(DataError, match="not an idx file"):
        open_data(tmp_path / "f")
    sizes = struct.pack(">BBBBIII", 0, 0, 8, 3, 1 << 31, 1 << 31, 4)  # whose product is 0 in 64 bits
    path.write_bytes(gzip.compress(sizes) if zipped else sizes)
    with pytest.raises(DataError, match=r"train-images.* more than a file of its size can"):
        open_data(tmp_path / "f")
    if zipped:
        path.write_bytes(whole[:10] + b"\xff" * 20 + whole[30:])
        with pytest.raises(DataError, match=r"train-images.*not a whole gzip"):
            open_data(tmp_path / "f")
    path.write_bytes(whole)
    path.with_name(path.name.replace("images-idx3", "labels-idx1")).unlink()
    with pytest.raises(DataError, match="has no train-labels"):
        open_data(tmp_path / "f")
