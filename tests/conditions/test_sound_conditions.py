# ruff: noqa: RUF001
"""Characters, phonemes, voice, length, and several at once: padding changes nothing, a dropped condition is exactly nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from jielong.conditions.alphabet import CHARACTERS, PHONEMES, Alphabet
from jielong.conditions.base import BuildContext, Condition
from jielong.conditions.characters import Characters, SymbolText
from jielong.conditions.composite import Composite, CompositeCondition
from jielong.conditions.length import Length, sinusoids
from jielong.conditions.phonemes import Phonemes, PhonemeText
from jielong.conditions.voice import Recording, Voice
from jielong.config.registry import Faults, parse_part, read_settings
from jielong.core.rng import PerSampleRNG
from jielong.media.kinds.audio import audio_medium
from jielong.networks.backbone import BackboneInputs
from jielong.networks.transformer import Transformer, TransformerConfig

TEXTS = ["hi", "Press one, then the pound key.", "no", "a b"]
WIDTH = 16


def voices(count: int) -> list[torch.Tensor]:
    return list(torch.nn.functional.normalize(torch.rand(count, 256, generator=torch.Generator().manual_seed(3)), dim=1))


def characters(**settings: Any) -> SymbolText:
    return Characters(**{"width": WIDTH, "layers": 2, "heads": 2, "cfg_dropout": 0.5} | settings).build()


def several(**settings: Any) -> CompositeCondition:
    of = {
        "characters": {"width": 12, "layers": 1, "heads": 2},
        "voice": {"width": 8, "cfg_dropout": 0.3},
        "length": {"width": 4, "cfg_dropout": 0},
    }
    return read_settings(Composite, {"parts": of, "width": WIDTH, "cfg_dropout": 0.5} | settings).build()


CASES: dict[str, tuple[Callable[[], Condition], list[Any]]] = {
    "characters": (characters, list(TEXTS)),
    "voice": (lambda: Voice(width=WIDTH).build(), voices(4)),
    "length": (lambda: Length(width=WIDTH).build(), [0.5, 2, 31.5, 2.5]),
    "composite": (
        several,
        [{"characters": t, "voice": v, "length": 1.0 + i} for i, (t, v) in enumerate(zip(TEXTS, voices(4), strict=True))],
    ),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[Condition, list[Any]]:
    torch.manual_seed(1)
    make, values = CASES[request.param]
    return make().eval(), values


def network(path: str) -> Transformer:
    net = Transformer(TransformerConfig(layers=1, width=WIDTH, heads=2, condition=path or "prefix"), axes=1, condition_width=WIDTH).eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return net


PLACES, BLOCKS = torch.arange(4)[:, None], torch.arange(4)


@pytest.mark.parametrize("path", ["prefix", "cross", "adaln"])
def test_padding_and_company_never_matter(case: tuple[Condition, list[Any]], path: str) -> None:
    condition, values = case
    net = network(path)
    x = torch.randn(len(values), 4, WIDTH, generator=torch.Generator().manual_seed(0))
    together = net(BackboneInputs(x, PLACES, BLOCKS, condition(condition.prepare(values))))
    longer = condition(condition.prepare(values)).padded(60)
    longer.states[~longer.mask] = float("nan")
    torch.testing.assert_close(net(BackboneInputs(x, PLACES, BLOCKS, longer)), together, rtol=1e-4, atol=1e-5)
    for row, value in enumerate(values):
        alone = net(BackboneInputs(x[row : row + 1], PLACES, BLOCKS, condition(condition.prepare([value]))))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ["prefix", "cross", "adaln"])
def test_a_dropped_condition_is_exactly_nothing(case: tuple[Condition, list[Any]], path: str) -> None:
    condition, values = case
    net = network(path)
    x = torch.randn(len(values), 4, WIDTH, generator=torch.Generator().manual_seed(0))
    dropped = torch.tensor([True, False, True, False])
    given = net(BackboneInputs(x, PLACES, BLOCKS, condition(condition.prepare(values))))
    nothing = net(BackboneInputs(x, PLACES, BLOCKS, condition.unconditional(len(values))))
    mixed = net(BackboneInputs(x, PLACES, BLOCKS, condition(condition.prepare(values), dropped)))
    torch.testing.assert_close(mixed, torch.where(dropped[:, None, None], nothing, given), rtol=1e-4, atol=1e-5)
    assert (given - nothing).abs().amax((1, 2)).min() > 1e-4


def test_every_weight_learns_and_values_can_be_json(case: tuple[Condition, list[Any]]) -> None:
    import json

    condition, values = case
    given = condition.train()(condition.prepare(values), torch.tensor([True, False, False, False]))
    (given.states * torch.randn(given.states.shape)).sum().backward()
    idle = [name for name, parameter in condition.named_parameters() if parameter.grad is None and not name.endswith(".null")]
    assert idle == []
    assert json.loads(json.dumps(condition.describe()))


def test_the_order_of_characters_matters() -> None:
    torch.manual_seed(0)
    condition = characters()
    pooled = condition(condition.prepare(["abc", "cba"])).pooled
    assert (pooled[0] - pooled[1]).abs().max() > 1e-3


def test_characters_are_folded_or_refused_by_name() -> None:
    alphabet = Alphabet(CHARACTERS)
    assert alphabet.spell("Crème\tBRÛLÉE — “naïve”…") == 'creme brulee - "naive"…'
    assert alphabet.spell("Straße, Ærø, Łódź, ﬁne, ２") == "strasse, aero, lodz, fine, 2"
    assert alphabet.spell("Cafe\u0301") == "cafe"
    assert Alphabet("ABC ").spell("a  b\nc") == "A B C"
    assert Alphabet("aé").spell("éa") == "éa", "what the alphabet has stays as it is"
    assert alphabet.numbers("ab a") == [1, 2, 0, 1]
    with pytest.raises(ValueError, match=r"'say 中' holds '中' \(U\+4E2D, CJK UNIFIED IDEOGRAPH-4E2D\)"):
        alphabet.spell("say 中")
    with pytest.raises(ValueError, match="holds no symbol"):
        alphabet.spell("¿¡")
    with pytest.raises(ValueError, match="repeats 'a'"):
        Alphabet("aba")
    assert len(set(PHONEMES)) == len(PHONEMES)


def test_misuse_is_refused() -> None:
    condition = characters(length=4)
    with pytest.raises(ValueError, match="5 symbols, but at most 4 are read"):
        condition.prepare(["abcde"])
    with pytest.raises(ValueError, match=r"2 of 3 texts cannot be read\. The first: a text has 5 symbols"):
        condition.check(["abcde", "ab", "ab", "中"])
    with pytest.raises(ValueError, match="needs words"):
        condition.prepare([" "])
    with pytest.raises(ValidationError, match="repeats"):
        Characters(alphabet="aa")
    with pytest.raises(ValueError, match="multiple of 4"):
        characters(width=6)
    length = Length().build()
    for wrong in [0, -1.0, float("nan"), float("inf"), "2", True]:
        with pytest.raises(ValueError, match="positive number of seconds"):
            length.prepare([wrong])
    with pytest.raises(ValueError, match=r"\[2\.5\]"):
        length.prepare(2.5)
    voice = Voice().build()
    with pytest.raises(ValueError, match="vector of 256"):
        voice.prepare([torch.ones(3)])
    with pytest.raises(ValueError, match="not int"):
        voice.prepare([3])
    with pytest.raises(ValueError, match="list with one voice"):
        voice.prepare("voice.wav")


def test_sines_of_a_length() -> None:
    features = sinusoids(torch.tensor([0.08, 1.0]), 64)
    assert features[0, 0] == pytest.approx(1.0)  # one whole turn of the shortest period
    assert features[1, 31].item() == pytest.approx(torch.tensor(2 * torch.pi / 500).cos().item(), abs=1e-6)
    near = sinusoids(torch.tensor([2.0, 2.02]), 64)
    assert (near[0] - near[1]).abs().max() > 0.5, "a hundredth is told apart"


def test_several_drop_each_alone_and_all_together() -> None:
    torch.manual_seed(0)
    condition = several()
    values = CASES["composite"][1]
    prepared = condition.prepare(values)
    given = condition.embed(prepared)
    rng = [PerSampleRNG(0, range(4000)), PerSampleRNG(0, range(4000))]
    dropped = condition.draw_dropped(rng[0])
    assert torch.equal(dropped, condition.draw_dropped(rng[1]))
    shares = dropped.double().mean(0).tolist()
    assert shares == pytest.approx([0.5, 0.1, 0.3, 0.0], abs=0.03)
    only_voice = condition(prepared, torch.tensor([[False, False, True, False]] * 4))
    letters = given.states.shape[1] - 2
    torch.testing.assert_close(only_voice.states[:, :letters], given.states[:, :letters])
    torch.testing.assert_close(only_voice.states[:, -1], given.states[:, -1])
    null = condition.maps["voice"](condition.parts["voice"].null) + condition.kinds["voice"]
    torch.testing.assert_close(only_voice.states[:, letters], null.expand(4, -1))
    all_at_once = condition(prepared, torch.tensor([[True, False, False, False]] * 4))
    torch.testing.assert_close(all_at_once.pooled, condition.unconditional(4).pooled)
    assert all_at_once.mask.sum(1).tolist() == [1] * 4


def test_what_an_item_leaves_out_is_dropped() -> None:
    torch.manual_seed(0)
    condition = several().eval()
    values = CASES["composite"][1]
    without = [dict(value) for value in values]
    del without[1]["voice"]
    left = condition(condition.prepare(without))
    column = torch.zeros(4, 4, dtype=torch.bool)
    column[1, 2] = True
    expected = condition(condition.prepare(values), column)
    torch.testing.assert_close(left.states, expected.states)
    torch.testing.assert_close(left.pooled, expected.pooled)
    nobody = [{**value, "voice": None} for value in values]
    column[:, 2] = True
    torch.testing.assert_close(condition(condition.prepare(nobody)).states, condition(condition.prepare(values), column).states)
    with pytest.raises(ValueError, match="every item needs a 'length'"):
        condition.prepare([{"characters": "a"}])
    with pytest.raises(ValueError, match="no condition 'voise' here; did you mean 'voice'"):
        condition.prepare([{"characters": "a", "voise": "x.wav", "length": 1}])
    with pytest.raises(ValueError, match="each item is a mapping with characters, voice, length, not 'a'"):
        condition.prepare(["a"])


def test_several_are_written_in_a_recipe_and_read_back() -> None:
    part = parse_part("condition", {"composite": {"parts": {"text": {"encoder": "bytes"}, "class": {}, "length": {"cfg_dropout": 0.2}}}})
    again = parse_part("condition", part.model_dump(mode="json"))
    assert again == part
    built = again.build(BuildContext(["cat", "dog"]))  # type: ignore[attr-defined]
    assert list(built.describe()) == ["text", "class", "length"]
    assert built.length == 34
    for wrong, why in (
        ({}, "at least one part"),
        ({"composite": {"parts": {"length": {}}}}, "`composite` may not"),
        ({"text": {}, "characters": {}}, "have the same input text"),
        ({"voices": {}}, "did you mean 'voice'"),
    ):
        with pytest.raises(Faults, match=why):
            read_settings(Composite, {"parts": wrong})


def test_raw_values_come_from_a_batch() -> None:
    batch: Any = SimpleNamespace(captions=["a", "b"], keys=["x", "y"], labels=None, lengths=torch.tensor([8000, 4000]))
    part = read_settings(Composite, {"parts": {"characters": {}, "voice": {}, "length": {}}})
    assert part.from_batch(batch, audio_medium(1, 16_000, 16_000)) == [
        {"characters": "a", "voice": "x", "length": 0.5},
        {"characters": "b", "voice": "y", "length": 0.25},
    ]
    with pytest.raises(ValueError, match="needs a class for every item"):
        read_settings(Composite, {"parts": {"class": {}, "voice": {}}}).from_batch(batch, audio_medium(1, 16_000, 16_000))


def test_a_remembered_voice_needs_no_recording() -> None:
    condition = Voice(width=WIDTH).build()
    condition.store({"clip 7": voices(1)[0]})
    assert torch.equal(condition.prepare(["clip 7"])[0], voices(1)[0])
    with pytest.raises(ValueError, match=r"no recording 'nowhere\.wav'"):
        condition.prepare(["nowhere.wav"])


def test_a_voice_is_that_of_its_recording() -> None:
    pytest.importorskip("soxr")
    if importlib.util.find_spec("resemblyzer") is None:
        pytest.skip("the speaker encoder's weights are not installed")
    condition = Voice(width=WIDTH).build()
    tone = torch.sin(torch.arange(48000) * 0.05) * 0.3 + 0.01 * torch.randn(48000, generator=torch.Generator().manual_seed(0))
    one, stereo = condition.prepare([Recording(tone, 24000), Recording(torch.stack((tone, tone)), 24000)])
    torch.testing.assert_close(one, stereo)
    assert one.norm().item() == pytest.approx(1, abs=1e-5)
    assert all(not name.startswith("_frozen") for name in condition.state_dict())


def test_phonemes() -> None:
    pytest.importorskip("espeakng_loader")
    condition = Phonemes(width=WIDTH, layers=1, heads=2).build()
    assert isinstance(condition, PhonemeText)
    spelt = [condition.alphabet.symbols[number] for number in condition.symbols("Hello, world.")]
    assert "".join(spelt) == "həlˈoʊ, wˈɜːld."
    assert condition.symbols("two") == condition.symbols("too") == condition.symbols("2")
    sentences = {
        "de": "Die Straße ist schön, nicht wahr?", "fr-fr": "Un bon vin blanc; où êtes-vous?", "es": "¿Dónde está el niño?",
        "it": "Gli gnocchi sono buoni!", "ru": "Привет, как дела?", "cmn": "你好，世界。",
        "ro": "Bună ziua, ce mai faci?",
    }  # fmt: skip
    for language, text in sentences.items():
        assert len(Phonemes(language=language, width=8, heads=2, layers=0).build().symbols(text)) > 5
    with pytest.raises(ValueError, match="no language or voice called 'xx-yy'"):
        Phonemes(language="xx-yy").build().symbols("a")
