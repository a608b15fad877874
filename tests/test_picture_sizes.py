"""Pictures that are not square: every recipe of pictures trains on them and draws them, and tokens lie where their pixels do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps
from typer.testing import CliRunner

import jielong
from jielong.apps import demo
from jielong.apps.cli import app
from jielong.apps.comparison import Budget, compare
from jielong.apps.demo.trace_view import trace
from jielong.config.recipe import built_in, load, parse
from jielong.config.registry import RecipeError
from jielong.core.tokens import Layout
from jielong.data import open_data
from jielong.data.source import DataError
from jielong.data.table import write_table
from jielong.evaluation.evaluate import evaluate
from jielong.media.images import encode, fit, to_bytes_tensor
from jielong.media.kinds.image import IMAGE, ImageData, image_medium
from jielong.quantizers.multi_scale import MultiScale
from jielong.training import experiment

BRIEF = ("train.samples=16", "train.batch=8", "train.warmup=8", "train.sample_every=16", "train.save_every=16")
"""Two steps."""
LEARNED, PIXELS = (8, 16), (4, 6)
"""Height and width where a token covers 4 x 4 pixels, and where it is a pixel."""


def of_pictures(name: str) -> bool:
    return name.endswith("-tiny") and isinstance(load(name).data, ImageData)


ROLES = {"item": "image", "caption": "text", "label": "text", "key": ["name"]}
RECIPES = [name for name in built_in() if of_pictures(name)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colours that differ along both axes, of several aspects, in classes, with captions."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 8), ("heldout", 2)):
        for number in range(count):
            for kind, size in (("wide", (24, 10)), ("tall", (10, 24))):
                path = root / split / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                gradient(size, number).save(path)
                path.with_suffix(".txt").write_text(f"a {kind} picture, number {number}")
    return root


def gradient(size: tuple[int, int], number: int = 0) -> Image.Image:
    """Red grows with the column and green with the row."""
    width, height = size
    image = Image.new("RGB", size)
    image.putdata([(255 * x // width, 255 * y // height, 9 * number) for y in range(height) for x in range(width)])
    return image


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Iterator[Path]:
    """A working folder with the tokenizers and the generator that recipes read, trained at :data:`LEARNED`."""
    folder = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("kl-tiny", "var-tokenizer-tiny", "vqvae-tiny", "maskgit-tiny"):
            experiment.run(recipe_of(name), Path("runs", name), str(pictures), device="cpu", progress=False)
        base = recipe_of("imagen-base-tiny", "data.size=[4, 8]")
        experiment.run(base, Path("runs/imagen-base-tiny"), str(pictures), device="cpu", progress=False)
        for name in ("unclip-embedding-tiny", "unclip-prior-tiny"):
            experiment.run(recipe_of(name), Path("runs", name), str(pictures), device="cpu", progress=False)
        yield folder


def recipe_of(name: str, *more: str) -> experiment.Recipe:
    height, width = PIXELS if load(name).tokenizer.model_dump().keys() == {"pixels"} else LEARNED
    proxy = ("tokenizer.titok.proxy=runs/vqvae-tiny", "tokenizer.titok.patch=4") if name == "titok-tiny" else ()
    return load(name, (*BRIEF, *proxy, f"data.size=[{height}, {width}]", *more))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """The same with a source for each: its neighbour."""
    root = tmp_path_factory.mktemp("pairs")
    lines = ["file_name,source,text,split"]
    for split in ("train", "heldout"):
        names = [path.relative_to(pictures) for path in sorted((pictures / split).rglob("*.png"))]
        for before, after in zip(names, names[1:] + names[:1], strict=True):
            (root / after.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy(pictures / after, root / after)
            lines.append(f"{after},{before},redder,{split}")
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_draws(name: str, stages: Path, pictures: Path, pairs: Path) -> None:
    recipe = recipe_of(name)
    assert isinstance(recipe.data, ImageData)
    out = Path("out", name)
    data = pairs if name.startswith("editing") else pictures
    summary = experiment.run(recipe, out, str(data), device="cpu", progress=False)
    assert summary.samples == 16
    system = jielong.load(out, device="cpu")
    shape = (3, *recipe.data.grid)
    assert system.tokenizer.media == image_medium(*shape[:1], recipe.data.grid)
    assert system.recipe.data == recipe.data.model_copy(update={"set": str(data)})
    if system.generator is None:
        assert evaluate(system, str(pictures), perception=False).figures["psnr"].n == 4
        return
    values = {"text": "a wide picture", "picture": str(next(data.rglob("*.png")))}
    given = {each: value for each, value in values.items() if each in system.inputs}
    drawn = system.generate(**(given or {"count": 1}), seed=1).tensor
    assert tuple(drawn.shape) == (1, *shape)


@pytest.mark.parametrize("size", [(16, 16), (8, 16), (16, 8), (5, 30), (30, 40)])
@pytest.mark.parametrize("given", [(24, 10), (10, 24), (30, 40), (9, 9)])
def test_pictures_are_cropped_and_resized_as_pillow_fits_them(size: tuple[int, int], given: tuple[int, int]) -> None:
    image = gradient(given)
    assert fit(image, size).tobytes() == ImageOps.fit(image, size[::-1], Image.Resampling.LANCZOS).tobytes()


def test_a_transposed_picture_at_the_transposed_size_is_transposed() -> None:
    image = gradient((40, 26))
    turned = fit(image.transpose(Image.Transpose.TRANSPOSE), (12, 20))
    difference = to_bytes_tensor(fit(image, (20, 12))).int() - to_bytes_tensor(turned).mT.int()
    assert difference.abs().max() <= 1  # Pillow rounds between its two passes


def test_sizes_are_a_side_or_height_and_width() -> None:
    read = ImageData.model_validate
    assert read({"size": [64, 64]}) == read({"size": 64}) == ImageData()
    assert read({"size": [48, 64]}).model_dump(mode="json")["size"] == [48, 64]
    assert IMAGE.medium(read({"size": [48, 64]}), 1) == image_medium(1, (48, 64))
    for medium in (image_medium(3, (48, 64)), image_medium(3, (64, 64))):
        assert IMAGE.medium(read(IMAGE.keys_of(medium)), 3) == medium
    assert load("vqvae-tiny", ["data.size=[8, 16]"]).to_yaml() == parse(load("vqvae-tiny", ["data.size=[8, 16]"]).to_yaml()).to_yaml()


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (
            "[8, 16, 3]",
            r"data.size: write the side of squares, such as 64, or \[height, width\], such as \[48, 64\] \(it is \[8, 16, 3\]\)",
        ),
        ("[8, 2]", r"data.size: Input should be greater than or equal to 4 \(it is \[8, 2\]\)"),
        ("[8, wide]", "data.size: Input should be a valid integer"),
        ("2", r"data.size: Input should be greater than or equal to 4 \(it is 2\)"),
    ],
)
def test_other_sizes_are_refused_with_one_reason(size: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason) as error:
        load("vqvae-tiny", [f"data.size={size}"])
    assert len(str(error.value).splitlines()) == 1


def test_sets_are_read_at_height_and_width(pictures: Path) -> None:
    data = open_data(pictures, size=(8, 16))
    assert data.medium == image_medium(3, (8, 16))
    rows = {key: index for index, key in enumerate(data.keys)}
    batch = data.media([rows["train/tall/3.png"]])[0]
    assert batch[0].diff(dim=1).mean() > 0.05  # red grows with the column
    assert batch[1].diff(dim=0).mean() > 0.01  # green with the row; a part of the height alone is seen
    assert float(batch[0].diff(dim=0).abs().max()) <= 0.02
    squares = open_data(pictures, size=8)
    assert squares.fingerprint != open_data(pictures, size=(8, 16)).fingerprint != open_data(pictures, size=(16, 8)).fingerprint
    with pytest.raises(DataError, match="greater than or equal to 4"):
        open_data(pictures, size=(8, 3))


def test_a_table_says_at_which_size_it_is_used_and_the_largest_is_used_of_several(tmp_path: Path) -> None:
    for name, size in (("wide", (4, 16)), ("square", 6), ("tall", (10, 5))):
        data = encode(gradient((16, 16), len(name)))
        write_table(tmp_path / f"{name}.parquet", [{"image": data, "text": name, "name": name}], **ROLES, size=size)
    wide, square, tall = (str(tmp_path / f"{name}.parquet") for name in ("wide", "square", "tall"))
    assert open_data(wide).medium.size == (4, 16)
    assert open_data(square).medium.size == (6, 6)
    assert open_data([square, tall]).medium.size == (10, 5)
    assert open_data([wide, square, tall]).medium.size == (4, 16)
    table = pq.read_table(square)
    pq.write_table(table.replace_schema_metadata({"jielong": '{"image": "image", "size": "big"}'}), square)
    with pytest.raises(DataError, match=r"square.parquet declares the size 'big' .* not a side or \[height, width\]"):
        open_data([wide, square])


def test_scales_of_a_transposed_grid_are_transposed() -> None:
    for grid in ((2, 8), (3, 5), (8, 8), (4, 16)):
        wide, tall = MultiScale().on(grid).pairs, MultiScale().on(grid[::-1]).pairs
        assert wide == tuple((rows, columns) for columns, rows in tall)
        assert wide[0] == (1, 1)
        assert wide[-1] == grid


AUTOENCODERS = {
    "convolutional": "{convolutional: {patch: 2, channels: [8, 8], blocks: [1, 1]}}",
    "resnet": "{resnet: {channels: [8, 8, 8], blocks: 1, groups: 4}}",
    "vit": "{vit: {patch: 4, layers: 1, width: 16, heads: 2}}",
}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_a_token_is_decoded_where_its_pixels_are(name: str) -> None:
    """The vector of which a region of pixels depends most is that of its row and column, or near it where convolutions mix them."""
    recipe = load("vqvae-tiny", [f"tokenizer.vq.autoencoder={AUTOENCODERS[name]}"])
    torch.manual_seed(0)
    tokenizer = recipe.tokenizer.build(image_medium(3, (24, 40)))
    assert tokenizer.layout == Layout((6, 10), vocabulary=tokenizer.layout.vocabulary)
    vectors = torch.randn(16, 60, tokenizer.code_dim).requires_grad_()
    picture = tokenizer.maps(vectors)
    assert picture.shape == (16, 3, 24, 40)
    for row in range(6):
        for column in range(10):
            region = picture[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            (gradient,) = torch.autograd.grad((region * torch.randn(region.shape)).sum(), vectors, retain_graph=True)
            at = divmod(int(gradient.square().sum((0, 2)).argmax()), 10)
            assert max(abs(at[0] - row), abs(at[1] - column)) <= (0 if name == "vit" else 2)


@pytest.fixture(scope="module")
def painter(stages: Path, pictures: Path) -> Path:
    """A masked generator of 4 x 6 pixels from words."""
    out = stages / "painter"
    experiment.run(recipe_of("maskgit-tiny"), out, str(pictures), device="cpu", progress=False)
    return out


def test_a_half_is_kept_and_the_rest_drawn(painter: Path, pictures: Path) -> None:
    system = jielong.load(painter, device="cpu")
    real = system.decode(system.encode(open_data(pictures, size=PIXELS).media([3])))[0]
    halves = {"upper": real[:, :2], "lower": real[:, 2:], "left": real[..., :3], "right": real[..., 3:]}
    for side, half in halves.items():
        drawn = system.complete(real, side, "a wide picture", seed=2).tensor[0]
        place = {"upper": drawn[:, :2], "lower": drawn[:, 2:], "left": drawn[..., :3], "right": drawn[..., 3:]}[side]
        assert torch.equal(place, half)
        assert not torch.equal(drawn, real)
    with pytest.raises(ValueError, match=r"\(channels, rows, columns\) = \(3, 4, 6\), not \(3, 6, 4\)"):
        system.complete(real.mT, "upper", "a wide picture")


def test_commands_and_views_show_height_and_width(painter: Path, pictures: Path, tmp_path: Path) -> None:
    def printed(*words: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.stderr
        return result.stdout

    for number, file in enumerate(sorted((pictures / "heldout").rglob("*.png"))[:2]):
        printed("generate", painter, "--text", "a tall picture", "--complete", file, "--out", tmp_path / str(number))
        with Image.open(next((tmp_path / str(number)).glob("0*.png"))) as image:
            assert image.size == PIXELS[::-1]
    assert "image of 3 x 4 x 6" in repr(jielong.load(painter))
    assert "[4, 6]" in printed("show", painter)
    assert "3 x 4 x 6" in printed("show", painter)
    report = json.loads(printed("data", "inspect", pictures, "--size", "4,6", "--sheet", tmp_path / "sheet.png", "--json"))
    assert (report["size"], report["used_as"]) == ([4, 6], "image of 3 x 4 x 6")
    assert "tall/0.png" in " ".join(report["odd"])  # 10 x 24, of which the aspect of 4 x 6 loses more than two thirds
    assert "aspect-ratio: 1" not in (Path(demo.__file__).parent / "page.css").read_text()
    seen = trace(jielong.load(painter, device="cpu"), ["a wide picture"], ["a wide picture"])[0]
    assert seen.grid == PIXELS
    assert tuple(seen.frames.shape[1:]) == (3, *PIXELS)


def test_generators_are_evaluated(painter: Path, pictures: Path) -> None:
    found = evaluate(jielong.load(painter, device="cpu"), str(pictures))
    assert found.figures["frechet"].n == 4


def test_a_comparison_goes_on_at_height_and_width(pictures: Path, tmp_path: Path) -> None:
    words = {"data": str(pictures), "device": "cpu", "overrides": ["data.size=[8, 16]"]}
    for names in (["vqvae-tiny"], ["vqvae-tiny", "fsq-tiny"]):
        compared = compare(names, tmp_path, Budget(samples=16), **words)
        assert [row.failed for row in compared.rows] == [None] * len(names)
    assert compared.settings["size"] == [8, 16]
    with pytest.raises(ValueError, match=r"size was \[8, 16\] and is now \[16, 8\]"):
        compare(["vqvae-tiny"], tmp_path, Budget(samples=16), **{**words, "overrides": ["data.size=[16, 8]"]})


def test_what_does_not_fit_is_refused_by_name_before_training(stages: Path, pictures: Path, tmp_path: Path) -> None:
    scales, small = "tokenizer.vq.quantizer.multi_scale.scales=[1, 2]", "losses.adversarial={start_samples: 8}"
    faults = {
        "vqvae-tiny": ("data.size=[8, 18]", "media of size 8 x 18 do not divide into tokens of 4 x 4"),
        "var-tokenizer-tiny": (scales, r"end at the feature map's grid \(2, 4\).* or write scales: auto"),
        "kl-tiny": (small, r"PatchGAN of 3 layers needs pictures of at least 24 pixels a side, not \(8, 16\)"),
        "mar-tiny": ("data.size=[16, 8]", "was trained on image of 3 x 8 x 16, but the data are image of 3 x 16 x 8"),
    }
    for name, (change, reason) in faults.items():
        with pytest.raises(ValueError, match=reason):
            experiment.run(recipe_of(name, change), tmp_path / name, str(pictures), device="cpu", progress=False)
        assert not list((tmp_path / name).glob("*.jsonl"))


@pytest.mark.parametrize("flatten", [False, True])
def test_a_token_of_pixels_is_its_pixel(flatten: bool) -> None:
    recipe = load("pixelcnn-emoji-tiny", [f"tokenizer={{pixels: {{levels: 256, flatten: {str(flatten).lower()}}}}}"])
    tokenizer = recipe.tokenizer.build(image_medium(3, (4, 6)))
    levels = torch.arange(72).view(1, 3, 4, 6)
    tokens = tokenizer.encode(levels / 127.5 - 1)
    assert tokens.layout.grid == ((4, 6, 3) if flatten else (4, 6))
    at = tokens.layout.coordinates()
    expected = levels[0, at[:, 2], at[:, 0], at[:, 1]][:, None] if flatten else levels[0, :, at[:, 0], at[:, 1]].T
    assert torch.equal(tokens.values[0], expected)
    assert torch.equal(((tokenizer.decode(tokens) + 1) * 127.5).round().long(), levels)
