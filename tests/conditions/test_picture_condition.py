"""A source picture as a condition: which tokens it becomes, where they are added, and what guidance keeps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from jielong.conditions.picture import PictureCondition
from jielong.config.recipe import load, parse
from jielong.config.registry import RecipeError
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.data import open_data
from jielong.data.pairs import source_media, without_source
from jielong.data.source import DataError
from jielong.evaluation.network_evaluations import count_evaluations
from jielong.generation.generator import Generator
from jielong.generation.request import check_config
from jielong.heads.base import HeadContext
from jielong.heads.continuous import GuidedDenoiser
from jielong.media.images import from_tensor, to_tensor
from jielong.media.kinds.image import image_medium
from jielong.networks.conditioning import Conditioning
from jielong.system import System, build_generator, build_tokenizer
from jielong.system.editing import EditError

MEDIUM = image_medium(3, (16, 16))


def built(name: str, noisy: bool = True, into: str = "positions", more: Sequence[str] = ()) -> System:
    """A recipe's system with random weights."""
    recipe = load(name, [f"condition.composite.parts.picture.into={into}", *more])
    torch.manual_seed(0)
    tokenizer = build_tokenizer(recipe, MEDIUM)
    generator = build_generator(recipe, tokenizer, []).eval()
    if noisy:
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter += 0.2 * torch.randn(parameter.shape)
    return System(name, recipe, tokenizer, generator)


def pictures(count: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


def loss(system: System, sources: Tensor) -> Tensor:
    generator, condition = _parts(system)
    values = [{"text": "make the hair red", "picture": source} for source in sources]
    return generator.loss(system.encode(pictures(len(sources))), condition.prepare(values))


def _parts(system: System) -> tuple[Generator, Any]:
    assert system.generator is not None
    return system.generator, system.generator.condition


@pytest.mark.parametrize("name", ["editing-tiny", "editing-flow-tiny"])
def test_untrained_it_changes_nothing_and_then_it_does(name: str) -> None:
    system = built(name, noisy=False)
    generator, condition = _parts(system)
    one = condition.parts["picture"](condition.parts["picture"].prepare(list(pictures(2))))
    assert one.positions.shape == (2, system.tokenizer.layout.positions, 32)
    assert generator.placed is not None
    assert not generator.placed.weight.any()
    system = built(name)
    first = pictures(2)
    assert torch.equal(loss(system, first), loss(system, first))
    assert not torch.equal(loss(system, first), loss(system, first.flip(0)))


def test_vectors_stand_at_the_positions_of_their_tokens() -> None:
    condition = PictureCondition(build_tokenizer(load("editing-tiny"), MEDIUM), 8, 0.1, "positions")
    one = pictures(1)[0]
    other = one.clone()
    other[:, 5, 9] = -other[:, 5, 9]
    first, second = (condition(condition.prepare([each])).positions for each in (one, other))
    assert first is not None and second is not None  # noqa: PT018
    assert (first != second).any(-1)[0].nonzero().flatten().tolist() == [5 * 16 + 9]
    dropped = condition(condition.prepare([one, other]), torch.tensor([True, False]))
    assert dropped.positions is not None
    assert not dropped.positions[0].any()
    assert torch.equal(dropped.positions[1], second[0])


def test_states_are_all_tokens_of_the_source() -> None:
    system = built("editing-tiny", into="states")
    generator, condition = _parts(system)
    assert generator.placed is None
    given = condition(condition.prepare([{"text": "x", "picture": pictures(1)[0]}]))
    assert given.positions is None
    assert given.states.shape[1] == 256 + 1
    first = pictures(2)
    assert not torch.equal(loss(system, first), loss(system, first.flip(0)))


FLUX2 = "head.flow_matching.network={flux2: {layers: 1, single_layers: 1, width: 32, heads: 2}}"


def test_references_stand_in_one_sequence_with_the_tokens_that_are_drawn() -> None:
    """Read by FLUX.2's network, left out for items without a picture, and the same in every batch."""
    system = built("editing-flow-tiny", into="references", more=(FLUX2,))
    generator, condition = _parts(system)
    assert generator.placed is None
    first, second = pictures(2)
    given = condition(condition.prepare([{"text": "x", "picture": first}, {"text": "a longer text"}]))
    count = system.tokenizer.layout.positions
    assert given.references.mask.tolist() == [[True] * count, [False] * count]
    assert given.references.coords[-1].tolist() == [10, *system.tokenizer.layout.coordinates()[-1].tolist()]
    assert not condition.with_nulls(given, torch.tensor([True, False])).references.mask.any()
    values = [{"text": "red", "picture": first}, {"text": "a longer text", "picture": second}, {"text": "blue"}]
    config = SamplingConfig(guidance=2.0, num_inference_steps=2)  # type: ignore[arg-type]
    drawn = system.generate_tokens(values, sampling=config, seed=1).values
    for row, value in enumerate(values):
        alone = system.generate_tokens([value], sampling=config, seed=1, indices=[row]).values
        torch.testing.assert_close(drawn[row], alone[0], rtol=1e-3, atol=1e-3)
    other = system.generate_tokens([{**values[0], "picture": second}], sampling=config, seed=1).values
    assert not torch.allclose(drawn[0], other[0], atol=1e-2)
    with pytest.raises(RecipeError, match="into: references puts the picture's tokens into the sequence of a network that reads them"):
        load("editing-flow-tiny", ["condition.composite.parts.picture.into=references"])


def test_guidance_compares_with_the_picture_alone() -> None:
    _, condition = _parts(built("editing-tiny"))
    one, other = pictures(2)
    values = [{"text": "red", "picture": one}, {"text": "blue", "picture": other}, {"text": "green"}]
    found = condition.compared(values)
    wanted = condition(condition.prepare([{"picture": one}, {"picture": other}]))
    torch.testing.assert_close(found.positions[:2], wanted.positions)
    torch.testing.assert_close(found.pooled[:2], wanted.pooled)
    torch.testing.assert_close(found.pooled[2], condition.null)
    assert not found.positions[2].any()
    alone = condition.compared([{"text": "red"}])
    assert alone.positions is None


def test_positions_are_cut_joined_and_moved_with_the_rest() -> None:
    plain = Conditioning.single(torch.ones(2, 4))
    vectors = torch.arange(24.0).view(2, 3, 4)
    joined = Conditioning.cat(plain.positioned(vectors), plain)
    assert joined.positions is not None
    assert torch.equal(joined.positions, torch.cat([vectors, torch.zeros(2, 3, 4)]))
    assert torch.equal(joined.rows(slice(1, 3)).positions, joined.positions[1:3])  # type: ignore[arg-type]
    assert torch.equal(joined.padded(5).to("cpu").positions, joined.positions)  # type: ignore[arg-type]
    assert Conditioning.cat(plain, plain).positions is None


def in_two_steps(name: str, image_guidance: float = 1.0) -> SamplingConfig:
    """Two steps of the order that has several, or of the head's solver where all tokens are drawn in one."""
    steps = {"steps": 2} if name == "editing-tiny" else {"num_inference_steps": 2}
    return SamplingConfig(guidance=2.0, image_guidance=image_guidance, **steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["editing-tiny", "editing-flow-tiny"])
def test_a_cached_draw_equals_the_naive_one_with_guidance(name: str) -> None:
    system = built(name)
    config = in_two_steps(name)
    values = [{"text": "make it red", "picture": pictures(1)[0]}]
    drawn: list[Tokens] = []
    for cache in (True, False):
        drawn.append(system.generate_tokens(values, sampling=config.override(cache=cache), seed=1))
    torch.testing.assert_close(drawn[0].values.float(), drawn[1].values.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("image_guidance", [0.0, 1.0, 1.5])
def test_two_scales_are_those_of_instruct_pix2pix(guidance: float, image_guidance: float) -> None:
    """Equation 3, of hidden vectors where the head is linear and of predictions where it has a network."""
    torch.manual_seed(0)
    full, picture, nothing = torch.randn(3, 2, 4, 32).double().unbind()
    flow = built("editing-flow-tiny")
    head, x = _parts(flow)[0].head.double(), torch.randn(2, 4, flow.tokenizer.layout.channels).double()
    layout = torch.zeros(4, len(flow.tokenizer.layout.extents))
    of = [Conditioning.single(torch.zeros(2, 32).double()) for _ in range(3)]
    context = HeadContext(picture, guidance, coords=layout, condition=of[0], null_condition=of[1])
    if image_guidance != 1:
        context = replace(context, blank=nothing, blank_condition=of[2], image_guidance=image_guidance)

    def closed(full: Tensor, picture: Tensor, nothing: Tensor) -> Tensor:
        return nothing + image_guidance * (picture - nothing) + guidance * (full - picture)

    torch.testing.assert_close(context.guided(full), closed(full, picture, nothing), rtol=0, atol=1e-5)  # in float32
    alone = [GuidedDenoiser(head.network, each, HeadContext(coords=layout, condition=of[0]))(x, 0.3) for each in (full, picture, nothing)]
    torch.testing.assert_close(GuidedDenoiser(head.network, full, context)(x, 0.3), closed(*alone))


@pytest.mark.parametrize("name", ["editing-tiny", "editing-flow-tiny"])
def test_a_scale_of_the_picture_takes_three_passes_and_a_scale_of_one_changes_nothing(name: str) -> None:
    system = built(name)
    value = {"text": "make it red", "picture": pictures(1)[0]}
    two, three = (in_two_steps(name, scale) for scale in (1.0, 1.5))
    counted = [count_evaluations(system, value, each) for each in (two, three)]
    assert 3 * (counted[0].backbone + counted[0].head) == 2 * (counted[1].backbone + counted[1].head) > 0
    plain = in_two_steps(name)
    values, other = [value, {**value, "picture": pictures(2)[1]}], system.tokenizer.layout.discrete
    drawn = {each: system.generate_tokens(values, sampling=each, seed=1).values for each in (two, three, plain)}
    assert torch.equal(drawn[two], drawn[plain])
    assert not torch.equal(drawn[three], drawn[two])
    naive = system.generate_tokens(values, sampling=three.override(cache=False), seed=1).values
    torch.testing.assert_close(drawn[three].float(), naive.float(), rtol=0, atol=0 if other else 1e-4)
    single = system.generate_tokens(values[1:], sampling=three, seed=1, indices=[1]).values
    torch.testing.assert_close(drawn[three][1:].float(), single.float(), rtol=0, atol=0 if other else 1e-3)


def test_what_has_no_second_scale_is_refused() -> None:
    config = SamplingConfig(guidance=2.0, steps=2, image_guidance=1.5)  # type: ignore[arg-type]
    system = built("editing-tiny")
    value = {"text": "make it red", "picture": pictures(1)[0]}
    with pytest.raises(ValueError, match="image_guidance is the scale of a source picture beside that of a text, and this generator"):
        check_config(_parts(system)[0], config.override(guidance=1.0), conditioned=False)
    with pytest.raises(ValueError, match="a negative text takes the place of the branch"):
        system.generate_tokens([value], sampling=config, negatives=[{"text": "blue"}])
    system.generator.head.guides_twice = False  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="guides with one scale: leave image_guidance at 1"):
        system.generate_tokens([value], sampling=config)
    with pytest.raises(RecipeError, match="this recipe's condition is no composite with a picture"):
        load("maskgit-tiny", ["sampling.image_guidance=1.5"])
    with pytest.raises(ValueError, match="image_guidance must be 0 or more"):
        SamplingConfig(image_guidance=-1)


def test_text_picture_and_both_are_dropped_in_a_twentieth_of_the_items_each() -> None:
    """Within 5 standard deviations of 0.05 x 0.95 x 0.95 alone, and 0.05 + 0.95 x 0.05 x 0.05 together, of 40,000 items."""
    for name in ("editing", "editing-flow"):
        settings = load(name).condition
        assert settings is not None
        shares = [settings.cfg_dropout, *(part.cfg_dropout for part in settings.components)]
        assert shares == [0.05] * 3
    _, condition = _parts(built("editing-tiny"))
    condition.cfg_dropout = 0.05
    for part in condition.parts.values():
        part.cfg_dropout = 0.05
    count = 40_000
    every, text, picture = condition.draw_dropped(PerSampleRNG(0, range(count))).T
    found = [(~every & text & ~picture), (~every & ~text & picture), every | (text & picture)]
    for dropped, share in zip(found, (0.05 * 0.95**2, 0.05 * 0.95**2, 0.05 + 0.95 * 0.05**2), strict=True):
        assert abs(float(dropped.float().mean()) - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_an_instruction_and_a_picture_give_a_picture(tmp_path: Path) -> None:
    system = built("editing-tiny")
    image = from_tensor(pictures(1)[0])
    image.save(tmp_path / "face.png")
    edited = system.edit(tmp_path / "face.png", instruction=["make the hair red", "close the eyes"], count=2, steps=2)
    assert edited.tensor.shape == (4, 3, 16, 16)
    assert edited.captions == ["make the hair red"] * 2 + ["close the eyes"] * 2
    same = system.generate("make the hair red", picture=tmp_path / "face.png", steps=2, count=2).tensor
    assert torch.equal(edited.tensor[:2], same)
    part = system.edit(image, instruction="make the hair red", region=(0, 0, 16, 4), steps=2).tensor[0]
    assert torch.equal(part[:, 4:], to_tensor(image)[:, 4:])
    with pytest.raises(EditError, match="reads an instruction and the picture: give `instruction`"):
        system.edit(image, "red hair")
    with pytest.raises(ValueError, match=r"there is no picture 'none.png'"):
        system.generate("make the hair red", picture="none.png")


def test_a_model_of_captions_takes_no_instruction() -> None:
    recipe = parse(
        "data: {size: 16}\ntokenizer: {pixels: {levels: 8}}\norder: masked\nbackbone: {transformer: {layers: 1, width: 16}}\n"
        "head: softmax\ntrain: {samples: 8}"
    )
    tokenizer = build_tokenizer(recipe, MEDIUM)
    system = System("plain", recipe, tokenizer, build_generator(recipe, tokenizer, []).eval())
    with pytest.raises(EditError, match="plain reads no instructions: give `text` with what the whole picture shows"):
        system.edit(pictures(1)[0], instruction="make the hair red")


def test_sources_of_a_table_and_of_a_folder(tmp_path: Path) -> None:
    table = open_data("faces-edits", "heldout", size=16)
    real = Image.open(io.BytesIO(table.columns["source"][4])).convert("RGB").resize((16, 16), Image.Resampling.LANCZOS)
    torch.testing.assert_close(source_media(table, [4])[0], to_tensor(real), rtol=0, atol=0.01)
    for name in ("after/a.png", "before/a.png", "after/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (len(name), 40, 200 if name.startswith("before") else 10)).save(tmp_path / name)
    rows = ["file_name,text,source", "after/a.png,make it darker,before/a.png", "after/b.png,make it darker,"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    folder = open_data(tmp_path, size=16)
    assert torch.equal(source_media(folder, [0])[0], to_tensor(Image.open(tmp_path / "before/a.png")))
    assert without_source(folder) == [1]
    with pytest.raises(DataError, match="has no picture in the column source"):
        source_media(folder, [1])
    folder.columns["source"][0] = "../a.png"
    with pytest.raises(DataError, match="is no file in"):
        source_media(folder, [0])


def test_sets_without_pairs_and_changed_pictures_are_refused() -> None:
    part = load("editing-tiny").condition
    assert part is not None
    picture = next(each for each in part.components if each.name == "picture")
    with pytest.raises(RecipeError, match="faces has no column 'source': choose a set of pairs"):
        picture.input.check(open_data("faces", "heldout", size=16), "faces")
    flipped = load("editing-tiny", ["data.augment={flip: true}"]).data
    with pytest.raises(RecipeError, match="leave it out"):
        picture.input.check(open_data("faces-edits", "heldout", settings=flipped), "faces-edits")
