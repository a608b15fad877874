from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from jielong.autoencoders.convolutional import Convolutional
from jielong.core import progress
from jielong.core.tokens import Layout, Tokens
from jielong.data.opening import open_data
from jielong.data.sets import MediaSet
from jielong.media.kinds.image import image_medium
from jielong.quantizers.vector import Vector
from jielong.tokenizers.pixels import Pixels
from jielong.tokenizers.vq import VQ, VQTokenizer
from jielong.training import token_cache as cache


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(5):
        Image.new("RGB", (16, 16), (50 * index, 255 - 50 * index, 77)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"picture {index}")
    return folder


def opened(folder: Path, size: int = 8) -> MediaSet:
    return open_data(folder, size=size)


def make(seed: int = 0, size: int = 8) -> VQTokenizer:
    torch.manual_seed(seed)
    autoencoder = Convolutional(channels=(8,), blocks=(1,), patch=4)
    return (
        VQ(autoencoder=autoencoder, dim=4, quantizer=Vector(codebook_size=300, kmeans_iterations=0))
        .build(image_medium(3, (size, size)))
        .eval()
    )


def test_tokens_of_a_set_are_those_of_its_pictures_in_order(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, images, screen = make().train(), opened(pictures), io.StringIO()
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.progress_on(Console(file=screen)):
        tokens = cache.tokenize(tokenizer, images, batch=2)
    counts = re.findall(r"tokenizing: (\d) of 5 \w+, [\d,.]+/s, \d+:\d\d left", screen.getvalue())
    assert counts == ["2", "4", "5"]
    assert tokenizer.training, "the mode is given back"
    assert torch.equal(tokens.values, tokenizer.eval().encode(images.media(range(5))).values)


@pytest.mark.parametrize(
    ("vocabulary", "stored"),
    [(2, torch.uint8), (256, torch.uint8), (257, torch.int16), (2**15, torch.int16), (2**15 + 1, torch.int32), (2**20, torch.int32)],
)
def test_every_code_survives_the_file_in_the_smallest_type(tmp_path: Path, vocabulary: int, stored: torch.dtype) -> None:
    from safetensors.torch import load_file

    values = torch.tensor([0, 1, vocabulary // 2, vocabulary - 1]).view(1, 2, 2)
    tokens = Tokens(values, Layout((2,), 2, vocabulary))
    cache.write(tmp_path / "t.safetensors", tokens, {"tokenizer": "a", "data": "b"})
    back = cache.read(tmp_path / "t.safetensors")
    assert back.layout == tokens.layout
    assert back.values.dtype == torch.long
    assert torch.equal(back.values, values)
    assert load_file(tmp_path / "t.safetensors")["values"].dtype == stored


def test_continuous_values_survive_as_they_are(tmp_path: Path) -> None:
    tokens = Tokens(torch.randn(2, 3, 4), Layout((3,), 4))
    cache.write(tmp_path / "t.safetensors", tokens, {})
    back = cache.read(tmp_path / "t.safetensors")
    assert torch.equal(back.values, tokens.values)
    assert back.layout == tokens.layout


def test_the_address_changes_with_weights_data_and_preprocessing(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures.parent / "cache"

    def addresses() -> int:
        return len(list(folder.glob("*.safetensors")))

    first = cache.cached(make(), opened(pictures), folder=folder)
    assert addresses() == 1
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.progress_on(Console(file=(screen := io.StringIO()))):
        again = cache.cached(make(), opened(pictures), folder=folder)
    assert torch.equal(first.values, again.values)
    assert (addresses(), screen.getvalue()) == (1, ""), "the same content is found, by another object and another opening"
    tokenizer = make()
    tokenizer.encoder.out.bias.data[0] += 1e-3
    cache.cached(tokenizer, opened(pictures), folder=folder)
    assert addresses() == 2
    cache.cached(make(size=16), opened(pictures, size=16), folder=folder)
    assert addresses() == 3
    Image.new("RGB", (16, 16), (1, 2, 3)).save(pictures / "3.png")
    cache.cached(make(), opened(pictures), folder=folder)
    assert addresses() == 4
    (pictures / "9.txt").write_text("one more")
    Image.new("RGB", (16, 16)).save(pictures / "9.png")
    assert len(cache.cached(make(), opened(pictures), folder=folder)) == 6
    assert addresses() == 5
    cache.cached(Pixels().build(image_medium(3, (8, 8))), opened(pictures), folder=folder)  # a tokenizer without weights
    cache.cached(Pixels(levels=9).build(image_medium(3, (8, 8))), opened(pictures), folder=folder)
    assert addresses() == 7


def test_stale_tokens_are_refused(pictures: Path) -> None:
    path, images = pictures.parent / "t.safetensors", opened(pictures)
    made_of = cache.identity(make(), images)
    cache.write(path, cache.tokenize(make(), images), made_of)
    assert len(cache.read(path, made_of)) == 5
    with pytest.raises(cache.StaleTokensError, match="were made by another tokenizer; tokenise again"):
        cache.read(path, cache.identity(make(seed=1), images))
    with pytest.raises(cache.StaleTokensError, match="from other data or with another preprocessing"):
        cache.read(path, cache.identity(make(), opened(pictures, size=12)))


def test_files_that_are_not_whole_are_refused(pictures: Path) -> None:
    path = pictures.parent / "t.safetensors"
    cache.write(path, cache.tokenize(make(), opened(pictures)), {"tokenizer": "a", "data": "b"})
    whole = path.read_bytes()
    for length in (0, 4, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"t\.safetensors is not a usable token file .*jielong tokenize"):
            cache.read(path)
    path.write_bytes(b"\x80\x04no tokens" * 10)
    with pytest.raises(ValueError, match="is not a usable token file"):
        cache.read(path)
    with pytest.raises(ValueError, match="is not a usable token file"):
        cache.read(pictures.parent / "missing.safetensors")


def test_a_damaged_file_in_the_users_cache_is_made_again(pictures: Path) -> None:
    folder = pictures.parent / "cache"
    first = cache.cached(make(), opened(pictures), folder=folder)
    (path,) = folder.glob("*.safetensors")
    whole = path.read_bytes()
    for damage in (whole[:-3], whole[:-1] + bytes([whole[-1] ^ 1])):  # cut, and another code
        path.write_bytes(damage)
        with pytest.warns(UserWarning, match=r"\.safetensors is not a usable token file .*: its tokens are computed again") as warned:
            assert torch.equal(cache.cached(make(), opened(pictures), folder=folder).values, first.values)
        assert len(warned) == 1
        assert len(cache.read(path)) == 5


def test_a_file_of_another_number_of_items_or_another_layout_is_refused(pictures: Path) -> None:
    path, images, tokenizer = pictures.parent / "t.safetensors", opened(pictures), make()
    tokens = cache.tokenize(tokenizer, images)
    cache.write(path, tokens, {}, {0: 4})
    assert len(cache.read(path, {}, images, tokenizer)) == 5
    assert images.replacements == {0: 4}
    Image.new("RGB", (16, 16)).save(pictures / "9.png")
    with pytest.raises(ValueError, match=r"t\.safetensors .*tokens of 5 items, but .* has 6"):
        cache.read(path, {}, opened(pictures), tokenizer)
    with pytest.raises(ValueError, match=r"t\.safetensors .*tokens of .*\(2, 2\).*, but the tokenizer's have .*\(4, 4\)"):
        cache.read(path, {}, None, make(size=16))
    cache.write(path, tokens, {}, {0: 5})
    with pytest.raises(ValueError, match=r"t\.safetensors .*item 0 is replaced by item 5"):
        cache.read(path, {}, images, tokenizer)


def test_nothing_half_written_is_left_when_the_disk_is_full(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures.parent / "cache"

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.warns(UserWarning, match="No space left.* It is computed now, and again the next time"):
        tokens = cache.cached(make(), opened(pictures), folder=folder)
    assert torch.equal(tokens.values, cache.tokenize(make(), opened(pictures)).values)
    assert list(folder.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*next good picture takes its place")
def test_the_words_of_a_broken_picture_are_those_of_its_stand_in_in_a_later_process_too(pictures: Path) -> None:
    folder, broken = pictures.parent / "cache", pictures / "2.png"
    noise = torch.randint(256, (64, 64, 3), dtype=torch.uint8).numpy()
    Image.fromarray(noise).save(broken)
    broken.write_bytes(broken.read_bytes()[:3000])  # the header is whole: only decoding finds out
    cache.cached(make(), opened(pictures), folder=folder)
    later = opened(pictures)
    tokens = cache.cached(make(), later, folder=folder)
    assert torch.equal(tokens.values[2], tokens.values[3])
    assert later.tokenised([2], tokens.values[[2]]).captions == ["picture 3"]
