"""MUSE's cascade: super-resolution from the tokens of a base, which run in order, and what each stage sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.apps.demo.trace_view import measure_speed, trace
from jielong.apps.lab.experiments import two_world_lines
from jielong.apps.lab.experiments.keep_only_a_few import draw_in_steps
from jielong.conditions.base_tokens import BaseTokens, BaseTokensCondition
from jielong.conditions.inputs import InputError
from jielong.config.recipe import load
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG, seed_of
from jielong.core.tokens import Tokens
from jielong.data import open_data
from jielong.evaluation.context import DrawSettings, EvalContext
from jielong.evaluation.network_evaluations import count_evaluations
from jielong.generation.callbacks import StepEvent
from jielong.generation.generator import Generator
from jielong.heads.base import HeadContext
from jielong.media.kinds.base import kind_of
from jielong.media.kinds.image import image_medium
from jielong.networks.backbone import BackboneInputs
from jielong.system import System, build_generator, build_tokenizer
from jielong.system.inputs import gather
from jielong.tokenizers.base import Tokenizer
from running_scripts import ROOT, module_of

SEED = 5
GUIDED: dict[str, Any] = {"guidance": 3.0}


def noisy(generator: Generator) -> Generator:
    """Weights that let every input count."""
    with torch.no_grad():
        for parameter in generator.eval().parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return generator


def built(*overrides: str) -> System:
    """muse-tiny with random weights, on maskgit-tiny with others."""
    torch.manual_seed(0)
    recipe = load("maskgit-tiny")
    tokenizer = build_tokenizer(recipe, image_medium(3, (8, 8)))
    base = System("base", recipe, tokenizer, noisy(build_generator(recipe, tokenizer, [])))
    fine = load("muse-tiny", overrides)
    finer = build_tokenizer(fine, image_medium(3, (16, 16)), {"base": base})
    return System("muse", fine, finer, noisy(build_generator(fine, finer, [], {"base": tokenizer})), {"base": base})


def parts(system: System) -> tuple[Generator, Any, System]:
    """The generator, its condition and the base."""
    assert system.generator is not None
    return system.generator, system.generator.condition, system.stages["base"]


def fine_of(system: System, words: Sequence[str], coarse: Tensor, **options: Any) -> Tensor:
    """The super-resolution's tokens, given the base's."""
    values = [{"text": text, "base_tokens": tokens} for text, tokens in zip(words, coarse, strict=True)]
    return system.generate_tokens(values, seed=SEED, **options).values


def coarse_of(system: System, words: Sequence[str], **options: Any) -> Tensor:
    """What the base draws inside a call with :data:`SEED`."""
    return system.stages["base"].generate_tokens(list(words), seed=seed_of(SEED, "stage", "base"), **options).values


def test_each_stage_gets_what_the_one_before_generated_and_one_seed_decides_both() -> None:
    system, words = built(), ["red", "blue", "red"]
    coarse = coarse_of(system, words)
    expected = system.decode(Tokens(fine_of(system, words, coarse), system.tokenizer.layout))
    assert torch.equal(system.generate(words, seed=SEED).tensor, expected)
    assert torch.equal(system.generate(words, seed=SEED, batch=1).tensor, expected)
    assert torch.equal(system.generate("red", count=1, seed=SEED).tensor[0], expected[0])
    assert not torch.equal(system.generate("red", seed=SEED + 1).tensor[0], expected[0])
    assert not torch.equal(fine_of(system, words, 7 - coarse), fine_of(system, words, coarse)), "the base's tokens are read"
    assert system.inputs == ("text",)


def test_cached_steps_equal_the_naive_reference() -> None:
    system, words = built(), ["red", "a blue square"]
    coarse = coarse_of(system, words)
    assert torch.equal(fine_of(system, words, coarse, cache=False, **GUIDED), fine_of(system, words, coarse, **GUIDED))


def test_guidance_acts_on_the_text_beside_the_base_tokens() -> None:
    """``l = (1 + t) l_c - t l_u``: at t = 0 the conditional; towards its own text nothing changes; without a text it does nothing."""
    system, words = built(), ["red", "a blue square"]
    coarse = coarse_of(system, words)
    plain, guided = fine_of(system, words, coarse, guidance=1.0), fine_of(system, words, coarse, **GUIDED)
    assert not torch.equal(plain, guided)
    values = [{"text": text, "base_tokens": tokens} for text, tokens in zip(words, coarse, strict=True)]
    assert torch.equal(system.generate_tokens(values, seed=SEED, negatives=values, **GUIDED).values, plain)
    alone = [{"base_tokens": tokens} for tokens in coarse]
    without = [system.generate_tokens(alone, seed=SEED, guidance=scale).values for scale in (1.0, 3.0)]
    assert torch.equal(*without)


def test_a_negative_text_goes_through_the_cascade() -> None:
    system, words = built(), ["red", "a blue square"]
    coarse = coarse_of(system, words, negatives=["green", "green"])
    assert not torch.equal(coarse, coarse_of(system, words))
    values, negatives = (
        [{"text": text, "base_tokens": tokens} for text, tokens in zip(texts, coarse, strict=True)] for texts in (words, ["green"] * 2)
    )
    expected = system.generate_tokens(values, seed=SEED, negatives=negatives).values
    drawn = system.generate(words, seed=SEED, negative_text="green").tensor
    assert torch.equal(drawn, system.decode(Tokens(expected, system.tokenizer.layout)))
    assert system.check(words, negative_text="green") == 2


def test_options_of_a_stage_are_its_own() -> None:
    system = built()
    warm = {"base": {"temperature": 3.0, "steps": 2}}
    coarse = coarse_of(system, ["red"], temperature=3.0, steps=2)
    expected = system.decode(Tokens(fine_of(system, ["red"], coarse), system.tokenizer.layout))
    assert torch.equal(system.generate("red", seed=SEED, stage_options=warm).tensor, expected)
    with pytest.raises(ValueError, match="`stage_options`: muse has no stage 'bas'; did you mean 'base'"):
        system.check("red", stage_options={"bas": {}})
    with pytest.raises(ValueError, match="did you mean 'temperature'"):
        system.check("red", stage_options={"base": {"temperatur": 1.0}})


def test_known_tokens_only_grow_in_number_and_stay() -> None:
    system, events = built(), list[StepEvent]()
    system.generate("red", seed=SEED, on_step=events.append)
    known = [int(event.known.sum()) for event in events]
    assert len(known) == 8
    assert known == sorted(set(known))
    assert known[-1] == 256
    for before, after in pairwise(events):
        assert bool(after.known[before.known].all())
        assert torch.equal(after.values[before.known], before.values[before.known])


def test_a_dropped_text_has_no_influence() -> None:
    """The Jacobian of the loss with respect to the text is zero where it is dropped, and that of the base's tokens is not."""
    system = built()
    generator, condition, base = parts(system)
    tokens = system.encode(pictures(2))
    values = [{"text": "red", "base_tokens": each} for each in base.encode(F.avg_pool2d(pictures(2), 2)).values]
    for dropped, influence in (([False, True, False], False), ([False, False, False], True)):
        generator.zero_grad()
        conditioning = condition(condition.prepare(values), torch.tensor([dropped, dropped]))
        embeddings = generator.position_vectors(generator.plan).expand(2, -1, -1)
        hidden = generator.backbone(BackboneInputs(embeddings, generator.plan.coords, generator.plan.blocks, conditioning))
        generator.head.loss(hidden.flatten(0, 1), tokens.values.flatten(0, 1), HeadContext()).mean().backward()
        assert (float(condition.parts["text"].table.weight.grad.abs().max()) > 0) is influence
        assert float(condition.parts["base_tokens"].embedding.weight.grad.abs().max()) > 0


def test_training_replaces_a_share_of_the_base_codes() -> None:
    """Of ``n`` codes ``n p (1 - 1/V)`` change, within six standard deviations; an item's do not depend on the others."""
    settings, tokenizer = BaseTokens(stage="base", width=8, heads=1, noise=0.3), pixels(8, (8, 8))
    condition = BaseTokensCondition(tokenizer, settings)
    codes = torch.randint(8, (64, 64, 3), generator=torch.Generator().manual_seed(0))

    def draws(rows: range) -> Any:
        return PerSampleRNG(1, rows).draws("condition")

    changed = condition.noised(codes, draws(range(64)))
    share, expected = float((changed != codes).double().mean()), 0.3 * 7 / 8
    assert abs(share - expected) < 6 * math.sqrt(expected * (1 - expected) / codes.numel())
    assert 0 <= int(changed.min()) <= int(changed.max()) == 7
    assert torch.equal(condition.noised(codes[5:9], draws(range(5, 9))), changed[5:9])
    assert torch.equal(condition.eval().noised(codes, draws(range(64))), codes)
    assert torch.equal(BaseTokensCondition(tokenizer, settings.model_copy(update={"noise": 0.0})).noised(codes, draws(range(64))), codes)


def test_noise_on_numbers_is_refused() -> None:
    tokenizer = load("kl-tiny").tokenizer.build(image_medium(3, (16, 16)))  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="this stage's tokens are continuous: leave noise out"):
        BaseTokens(stage="base", noise=0.1).build_on(tokenizer)
    values = torch.randn(2, tokenizer.layout.positions, tokenizer.layout.channels)
    states = BaseTokens(stage="base", width=8, heads=1).build_on(tokenizer)(values).states
    assert states.shape == (2, tokenizer.layout.positions, 8)


def pixels(levels: int, size: tuple[int, int]) -> Tokenizer:
    recipe = load("maskgit-tiny", [f"tokenizer.pixels.levels={levels}"])
    return build_tokenizer(recipe, image_medium(1, size))


def test_given_the_right_base_tokens_everything_is_known_at_once() -> None:
    """Fine tokens are a permutation of the coarse ones' codes, upsampled: all of them masked, the loss falls to nearly zero."""
    torch.manual_seed(0)
    recipe = load("muse-tiny", ["condition.composite.parts.text=null", "condition.composite.parts.base_tokens.noise=0"])
    coarse, fine = pixels(8, (2, 2)), pixels(8, (4, 4))
    model = build_generator(recipe, fine, [], {"base": coarse})
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    permutation, generator = torch.randperm(8), torch.Generator().manual_seed(1)
    loss = torch.zeros(())
    for _ in range(150):
        low = torch.randint(8, (32, 4, 1), generator=generator)
        high = permutation[low].view(32, 2, 2).repeat_interleave(2, 1).repeat_interleave(2, 2).view(32, 16)
        conditioning = model.condition(model.condition.prepare([{"base_tokens": each} for each in low]))  # type: ignore[misc, union-attr]
        nothing = torch.zeros(32, 16, dtype=torch.bool)
        embeddings = model.embeddings(torch.zeros(32, 16, 1, dtype=torch.long), nothing, slice(0, 16), model.position_vectors(model.plan))
        hidden = model.backbone(BackboneInputs(embeddings, model.plan.coords, model.plan.blocks, conditioning, nothing))
        logits = model.head.logits(hidden)  # type: ignore[operator]
        loss = F.cross_entropy(logits.reshape(-1, 8), high.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.02


def pictures(count: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_an_edit_changes_the_region_in_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    system = built()
    _, _, base = parts(system)
    image, calls = pictures(1)[0], list[dict[str, Any]]()
    generate = Generator.generate

    def spy(self: Generator, *values: Any, **options: Any) -> Tokens:
        tokens = generate(self, *values, **options)
        calls.append({**options, "drawn": tokens.values})
        return tokens

    monkeypatch.setattr(Generator, "generate", spy)
    edited = system.edit(image, "red", region=(4, 0, 5, 6), seed=SEED, outside="drawn").tensor[0]
    (first, second), small = calls, kind_of(base.tokenizer.media).fitted(image[None], base.tokenizer.media)
    for options, picture, area in ((first, small, (slice(0, 3), slice(2, 5))), (second, image[None], (slice(0, 6), slice(4, 9)))):
        kept = torch.ones(picture.shape[2:], dtype=torch.bool)
        kept[area] = False
        tokenizer = base.tokenizer if picture is small else system.tokenizer
        assert torch.equal(options["known"], kept.flatten())
        assert torch.equal(options["drawn"][0, kept.flatten()], tokenizer.encode(picture).values[0, kept.flatten()])
    known = system.decode(system.encode(image[None]))[0]
    assert torch.equal(edited[:, :, 9:], known[:, :, 9:])
    assert not torch.equal(edited[:, :6, 4:9], known[:, :6, 4:9])
    exact = system.edit(image, "red", region=(4, 0, 5, 6), seed=SEED).tensor[0]
    assert torch.equal(exact[:, :, 9:], image[:, :, 9:])
    whole = system.edit(image, "red", strength=0.3, seed=SEED).tensor[0]
    assert calls[-2]["strength"] == calls[-1]["strength"] == 0.3
    assert not torch.equal(whole, known)


def test_a_completion_keeps_the_half_in_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    system, calls = built(), list[dict[str, Any]]()
    generate = Generator.generate

    def spy(self: Generator, *values: Any, **options: Any) -> Tokens:
        calls.append(options)
        return generate(self, *values, **options)

    monkeypatch.setattr(Generator, "generate", spy)
    image = pictures(1)[0]
    drawn = system.complete(image, "left", "red", seed=SEED).tensor[0]
    known = system.decode(system.encode(image[None]))[0]
    assert torch.equal(drawn[:, :, :8], known[:, :, :8])
    assert [int(each["known"].sum()) for each in calls] == [32, 128]
    start, half = system.encode(image[None]), torch.arange(256) < 128
    with pytest.raises(InputError, match="the stage 'base' would be drawn without them: use `edit` or `complete`, or give `base_tokens`"):
        system.generate("red", start=start, known=half)
    assert len(system.generate("red", start=start, known=half, base_tokens=coarse_of(system, ["red"])[0])) == 1  # type: ignore[call-arg]


def test_the_demo_draws_both_stages() -> None:
    system, words = built(), ["red", "a blue square"]
    shown = trace(system, words, words, SEED)
    assert torch.equal(torch.stack([each.picture for each in shown]), system.generate(words, seed=SEED).tensor)
    assert measure_speed(system, words, SEED).batch == 2


def test_the_lab_and_the_benchmark_draw_both_stages_and_count_them(monkeypatch: pytest.MonkeyPatch) -> None:
    system, words = built(), ["red", "a blue square", "red"]
    expected = system.generate(words, seed=SEED).tensor
    base, fine = ((each.recipe.order.steps, each.generator.backbone) for each in (system.stages["base"], system))  # type: ignore[union-attr]
    monkeypatch.setattr(two_world_lines, "BATCH", 2)
    assert torch.equal(two_world_lines.draw_timed(system, words, SEED)[0], expected)
    assert two_world_lines.watch(system, words, SEED)[1] == base[0] + fine[0]
    steps = fine[0]
    alone = system.generate(words, seed=SEED, guidance=1.0, sampling=SamplingConfig(steps=steps)).tensor
    assert torch.equal(draw_in_steps(system, words, [steps], SEED)[0][steps], alone)
    benchmark = module_of(ROOT / "benchmarks" / "systems.py")
    assert torch.equal(benchmark.draw(system, 2).values, system.generate_tokens(
        gather(system, {"text": list(benchmark.CAPTIONS[:2])}, None, 0).conditions, seed=0).values)  # fmt: skip


def test_evaluations_are_counted_of_both_stages() -> None:
    system = built()
    steps = [each.recipe.order.steps for each in (system.stages["base"], system)]  # type: ignore[union-attr]
    counted = count_evaluations(system, None, given={"text": ["red"]})
    assert counted.to_json() == {"backbone": 2 * sum(steps), "head": 0}, "with both halves of guidance"
    data = open_data("emoji", "heldout", size=16)
    context = EvalContext(system, data, [0, 1], data.media([0, 1]), DrawSettings(seed=SEED), lambda *words: None)
    assert count_evaluations(system, None, given=context.first_given()) == counted


def test_an_evaluation_draws_what_a_user_would(tmp_path: Path) -> None:
    system = built()
    data = open_data("emoji", "heldout", size=16)
    rows = [0, 1, 2]
    context = EvalContext(system, data, rows, data.media(rows), DrawSettings(seed=SEED, negative_text="green"), lambda *words: None)
    drawn = context.draw(context.conditions())
    words = [data.captions[row] for row in rows]
    assert torch.equal(system.decode(drawn), system.generate(words, seed=SEED, negative_text="green").tensor)
    real = context.conditions()
    assert real is not None
    assert not torch.equal(system.decode(drawn), system.decode(system.generate_tokens(real, seed=SEED)))
