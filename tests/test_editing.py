"""Editing: which tokens and pixels a mask touches, what stays as it was, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from jielong.config.recipe import parse
from jielong.core.tokens import Layout
from jielong.generation.inpainting import drawn_positions
from jielong.media.images import from_tensor
from jielong.media.kinds.image import image_medium
from jielong.media.masks import fit_mask, outpainted, read_mask, region_mask
from jielong.system import System, build_generator, build_tokenizer
from jielong.system.editing import Edit, EditError, EditSettings

PIXELS, PATCHES = "{pixels: {levels: 8}}", "{patches: {patch: 4}}"
CODES = "{vq: {autoencoder: {convolutional: {patch: 4, channels: [8], blocks: [1]}}, dim: 4, quantizer: {QUANTIZER}}}"
CODE = CODES.replace("QUANTIZER", "vector: {codebook_size: 16, kmeans_iterations: 0}")
SCALES = CODES.replace("QUANTIZER", "multi_scale: {codebook_size: 16, scales: [1, 2, 4], kmeans_iterations: 0}")
SMALL = "network: {dit: {layers: 1, width: 16, heads: 2}}, steps: 4"
ORDERS = {
    "masked": (PIXELS, "{masked: {steps: 3}}", "softmax"),
    "masked codes": (CODE, "{masked: {steps: 3}}", "softmax"),
    "masked numbers": (PATCHES, "{masked: {steps: 3, choose: random}}", "{diffusion: {network: {mlp: {layers: 1, width: 8}}, steps: 2}}"),
    "raster": (PIXELS, "raster", "softmax"),
    "scales": (SCALES, "next_scale", "softmax"),
    "flow": (PATCHES, "at_once", f"{{flow_matching: {{{SMALL}}}}}"),
    "diffusion": (PATCHES, "at_once", f"{{diffusion: {{{SMALL}}}}}"),
    "mean flow": (PATCHES, "at_once", f"{{mean_flow: {{{SMALL}}}}}"),
    "consistency": (PATCHES, "at_once", f"{{consistency: {{{SMALL}}}}}"),
    "averages": (PATCHES, "{next_scale: {divide: {scales: auto}}}", f"{{flow_matching: {{{SMALL}}}}}"),
}
SIDE = 16


def built(case: str) -> System:
    """A system with random weights."""
    tokenizer, order, head = ORDERS[case]
    backbone = "{none: {width: 16}}" if order == "at_once" else "{transformer: {layers: 1, width: 16, heads: 2}}"
    first = f"data: {{size: {SIDE}}}\ntrain: {{samples: 8}}\n"
    fixed = PATCHES if tokenizer == PATCHES else PIXELS
    recipe = parse(f"{first}tokenizer: {fixed}\norder: {order}\nbackbone: {backbone}\nhead: {head}")
    trained = recipe if tokenizer == fixed else parse(f"{first}tokenizer: {tokenizer}\nlosses: regression")
    torch.manual_seed(0)
    codec = build_tokenizer(trained, image_medium(3, (SIDE, SIDE))).eval()
    generator = build_generator(recipe, codec, []).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return System(case, recipe, codec, generator)


def picture() -> Tensor:
    return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).mul(255).round().div(127.5).sub(1)


def pixels(*region: int) -> Tensor:
    left, top, width, height = region
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_a_token_is_drawn_if_the_mask_touches_one_of_its_pixels() -> None:
    mask = torch.rand(12, 20, generator=torch.Generator().manual_seed(0)) < 0.05
    for grid in ((3, 5), (4, 4), (5, 3)):  # cells of whole pixels, and of parts of them
        found = drawn_positions(Layout(grid, vocabulary=4), mask).view(grid)
        for row in range(grid[0]):
            for column in range(grid[1]):
                rows = slice(row * 12 // grid[0], -(-(row + 1) * 12 // grid[0]))
                columns = slice(column * 20 // grid[1], -(-(column + 1) * 20 // grid[1]))
                assert bool(found[row, column]) == bool(mask[rows, columns].any())
    colours = drawn_positions(Layout((3, 5, 3), vocabulary=4, axes=("rows", "columns", "channels")), mask)
    assert torch.equal(colours, drawn_positions(Layout((3, 5), vocabulary=4), mask).repeat_interleave(3))


def test_coarse_scales_are_drawn_where_most_of_them_is_masked() -> None:
    layout = Layout((4, 4), vocabulary=4, scales=((1, 1), (2, 2), (4, 4)))
    found = drawn_positions(layout, pixels(0, 0, 9, 8))  # the upper left quarter, and a column of pixels more
    assert found.tolist() == [False, True, False, False, False, *[True, True, True, False] * 2, *[False] * 8]
    assert drawn_positions(layout, torch.ones(16, 16, dtype=torch.bool)).all()
    with pytest.raises(ValueError, match=r"a grid \(latents\) of \(8,\), so no token has a region"):
        drawn_positions(Layout((8,), vocabulary=4, axes=("latents",)), pixels(0, 0, 4, 4))


def test_a_mask_is_fitted_as_its_picture_and_never_loses_a_pixel() -> None:
    mask = Image.new("L", (90, 60))
    mask.putpixel((44, 3), 255)
    fitted = fit_mask(mask, (16, 16))
    assert fitted.shape == (16, 16)
    assert fitted.nonzero().tolist() == [[0, 7]]  # 15 columns are cropped on each side; a pixel is 60 / 16 wide
    mask.putpixel((3, 3), 255)
    assert torch.equal(fit_mask(mask, (16, 16)), fitted)


def test_masks_and_regions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"small.png has 8 x 8 pixels and the picture 16 x 16: draw the mask over the picture"):
        read_mask(tmp_path / "small.png", (16, 16))
    with pytest.raises(ValueError, match="the mask has no white pixel"):
        read_mask(Image.new("L", (16, 16), 100), (16, 16))
    for region in ((12, 0, 5, 4), (-1, 0, 4, 4), (0, 0, 0, 4)):
        with pytest.raises(ValueError, match="is not inside 16 x 16 pixels"):
            region_mask(region, (16, 16))


def test_a_canvas_moves_or_shrinks_its_picture() -> None:
    image = from_tensor(picture())
    moved, new = outpainted(image, (4, -4, 0, 0), (SIDE, SIDE))
    assert moved.crop((4, 0, 16, 16)).tobytes() == image.crop((0, 0, 12, 16)).tobytes()
    assert torch.equal(fit_mask(new, (SIDE, SIDE)), pixels(0, 0, 4, 16))
    smaller, new = outpainted(image, (8, 8, 0, 16), (SIDE, SIDE))
    assert smaller.size == (32, 32)
    assert torch.equal(fit_mask(new, (SIDE, SIDE)), ~pixels(4, 0, 8, 8))
    with pytest.raises(ValueError, match=r"canvas of 20 x 16 pixels.* 4,0,2,2 shows the picture smaller, and 4,-4,0,0 moves it"):
        outpainted(image, (4, 0, 0, 0), (SIDE, SIDE))
    for margins, says in (((-4, 0, 0, 0), "add nothing"), ((16, -16, 0, 0), "too little"), ((100, 100, 100, 100), "too little")):
        with pytest.raises(ValueError, match=says):
            outpainted(image, margins, (SIDE, SIDE))


@pytest.mark.parametrize("case", ORDERS)
def test_outside_the_mask_nothing_changes(case: str) -> None:
    system, real, seen = built(case), picture(), list[Tensor]()
    mask = pixels(4, 4, 7, 5)
    edited = system.edit(real, region=(4, 4, 7, 5), count=2, on_step=lambda event: seen.append(event.values)).tensor
    assert torch.equal(edited[:, :, ~mask], real[:, ~mask].expand(2, -1, -1))
    assert not torch.allclose(edited[0], edited[1])
    before, drawn = system.encode(real[None]).values, drawn_positions(system.tokenizer.layout, mask)
    after = seen[-1]
    if system.tokenizer.layout.discrete:
        assert torch.equal(after[:, ~drawn], before[:, ~drawn].expand(2, -1, -1))
    else:
        torch.testing.assert_close(after[:, ~drawn], before[:, ~drawn].expand(2, -1, -1), rtol=0, atol=1e-5)
    decoded = system.edit(real, mask=mask, outside="decoded").tensor[0]
    torch.testing.assert_close(decoded[:, ~mask], system.decode(system.encode(real[None]))[0][:, ~mask], rtol=0, atol=1e-5)
    assert torch.equal(decoded[:, mask], system.edit(real, mask=mask, outside="drawn").tensor[0][:, mask])


@pytest.mark.parametrize("case", ["masked", "masked numbers", "flow", "diffusion", "mean flow"])
def test_a_weaker_edit_of_all_stays_nearer_to_the_picture(case: str) -> None:
    system, real = built(case), picture()
    before = system.encode(real[None]).values
    distances = list[float]()
    for strength in (0.25, 0.5, 1.0):
        seen: list[Tensor] = []
        system.edit(real, strength=strength, count=4, on_step=lambda event, seen=seen: seen.append(event.values))  # type: ignore[misc]
        distances.append(float((seen[-1] != before).float().mean() if case == "masked" else (seen[-1] - before).abs().mean()))
    assert distances == sorted(distances)
    assert distances[0] < 0.6 * distances[2]


@pytest.mark.parametrize("case", ["scales", "averages"])
def test_a_weaker_edit_of_scales_keeps_the_coarse_ones(case: str) -> None:
    system, real, seen = built(case), picture(), list[Tensor]()
    before = system.encode(real[None]).values
    edit = Edit.of(system, real, EditSettings(strength=0.4))
    assert edit.describe() == "strength 0.4: the finest 1 of 3 scales are drawn"
    edit.draw(count=2, on_step=lambda event: seen.append(event.values))
    assert torch.equal(seen[-1][:, :5], before[:, :5].expand(2, -1, -1))
    assert (seen[-1][:, 5:] != before[:, 5:]).float().mean() > 0.5


def test_an_edit_of_everything_at_full_strength_is_generation() -> None:
    for case in ("masked", "flow", "diffusion", "mean flow", "consistency", "averages"):
        system = built(case)
        drawn = system.generate(count=1, seed=3).tensor
        torch.testing.assert_close(system.edit(picture(), strength=1.0, seed=3).tensor, drawn, rtol=0, atol=1e-5)


def test_it_says_what_an_edit_touches() -> None:
    system = built("masked codes")
    words = Edit.of(system, picture(), EditSettings(region=(4, 4, 5, 4))).describe()
    assert words == "20 of 256 pixels (7.8 %) change; they touch 2 of 16 tokens, which are drawn, and the other 14 are kept"
    image = from_tensor(picture()).resize((48, 32))
    words = Edit.of(system, image, EditSettings(strength=0.25)).describe()
    assert words == "the picture of 48 x 32 pixels is read at 16 x 16; strength 0.25: 4 of 16 tokens, at random, are drawn"
    assert "raster order: what is kept behind" in Edit.of(built("raster"), picture(), EditSettings(region=(4, 4, 5, 4))).describe()


@pytest.mark.parametrize(
    ("case", "given", "says"),
    [
        ("masked", {}, "nothing would change: give `text`, `strength`, `mask`, `region` or `outpaint`"),
        ("masked", {"region": (0, 0, 4, 4), "mask": pixels(0, 0, 4, 4)}, "`mask` and `region` both say what changes"),
        ("masked", {"region": (0, 0, 16, 16)}, "the whole picture would change"),
        ("masked", {"region": (0, 0, 16)}, "four whole numbers"),
        ("masked", {"strength": 1.5}, "at most 1"),
        ("masked", {"strength": 0.0}, "above 0"),
        ("raster", {"strength": 0.5}, "token by token .* say with `mask` or `region`"),
        ("raster", {"strength": 0.5, "region": (0, 0, 4, 4)}, "leave `strength` out"),
    ],
)
def test_what_cannot_be_edited_is_refused_before_the_work(case: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(EditError, match=says):
        built(case).edit(picture(), **given)


def test_pictures_of_another_size_and_tokenizers_are_refused() -> None:
    system = built("masked")
    with pytest.raises(EditError, match=r"\(C, H, W\) = \(3, 16, 16\) here, not \(3, 8, 8\)"):
        system.edit(torch.zeros(3, 8, 8), strength=0.5)
    with pytest.raises(EditError, match="is a tokenizer; to edit, load a generator") as error:
        System("alone", system.recipe, system.tokenizer, None).edit(picture(), strength=0.5)
    assert error.value.on_command_line() == str(error.value)
    assert EditError("give {mask}").on_command_line() == "give --mask"
