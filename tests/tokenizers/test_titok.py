"""1-D tokens: what the networks see, what each stage learns, and that nothing else moves."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from jielong.config.recipe import load
from jielong.config.registry import RecipeError, parse_part
from jielong.core.medium import Medium
from jielong.core.tokens import Layout, Tokens
from jielong.media.kinds.image import image_medium
from jielong.tokenizers.pixels import Pixels, PixelTokenizer
from jielong.tokenizers.titok import TiTokTokenizer
from jielong.tokenizers.vq import VQTokenizer
from jielong.training.checkpoint import WEIGHTS, StorageDtype, load_weights, save_checkpoint

MEDIA = image_medium(3, (16, 24))
LATER = 1000
"""Samples seen in the second stage."""


def make_proxy(media: Medium = MEDIA, quantizer: str = "vector", **settings: object) -> VQTokenizer:
    torch.manual_seed(0)
    settings = settings or {"codebook_size": 20, "kmeans_iterations": 0}
    body = {"convolutional": {"channels": [8], "blocks": [1], "patch": 4}}
    return parse_part("tokenizer", {"vq": {"autoencoder": body, "dim": 6, "quantizer": {quantizer: settings}}}).build(media).eval()  # type: ignore[attr-defined]


SIZE = {"layers": 1, "width": 16, "heads": 2}


def make(proxy: VQTokenizer | None = None, **settings: object) -> TiTokTokenizer:
    """Five tokens of a codebook of 32."""
    given = {"tokens": 5, "finetune_at": 100, "patch": 8, "dim": 4, "encoder": SIZE, "decoder": SIZE}
    given |= {} if "pixels" in settings else {"proxy": "p"}
    given["quantizer"] = {"vector": {"codebook_size": 32, "normalize": True, "kmeans_iterations": 0}}
    part = parse_part("tokenizer", {"titok": given | settings})
    proxy = proxy or make_proxy()
    torch.manual_seed(1)
    return part.build(MEDIA, {"proxy": proxy})  # type: ignore[attr-defined]


def alone(**settings: object) -> TiTokTokenizer:
    """The same without a proxy."""
    body = {"convolutional": {"channels": [8], "blocks": [1], "patch": 4}}
    return make(None, finetune_at=0, pixels={"codes": 20, "dim": 6, "autoencoder": body}, **settings)


def stirred(tokenizer: TiTokTokenizer) -> TiTokTokenizer:
    """The same with other weights than at the start, where the decoder's head is zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return tokenizer


def pictures(batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_tokens_stand_in_one_dimension() -> None:
    tokenizer = stirred(make()).eval()
    assert tokenizer.layout == Layout((5,), 1, 32, axes=("latents",))
    assert tokenizer.layout.bits == 25
    tokens = tokenizer.encode(pictures())
    assert tokens.values.shape == (3, 5, 1)
    assert len(tokens.values.unique()) > 1
    assert tokenizer.decoder(tokenizer.quantizer.decode(tokens.values)).shape == (3, 4 * 6, 20)
    rebuilt = tokenizer.decode(tokens)
    assert rebuilt.shape == (3, *MEDIA.shape)
    assert rebuilt.abs().max() <= 1
    assert not rebuilt.requires_grad


def test_every_token_sees_every_patch_and_every_place_sees_every_token() -> None:
    tokenizer = stirred(make())
    media = pictures(1).requires_grad_()
    for token in range(5):
        (seen,) = torch.autograd.grad(tokenizer.encoder(media)[0, token].sum(), media)
        assert (seen[0].unflatten(1, (2, 8)).unflatten(3, (3, 8)).abs().sum((0, 2, 4)) > 0).all()
    latents = torch.randn(1, 5, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(tokenizer.decoder(latents)[0].square().sum(), latents)
    assert (gradient.abs().sum(-1) > 0).all()


def test_tokens_differ_in_their_vectors_alone() -> None:
    tokenizer = stirred(make()).eval()
    tokens = tokenizer.encode(pictures())
    other = copy.deepcopy(tokenizer)
    order = torch.tensor([3, 0, 4, 1, 2])
    for network in (other.encoder, other.decoder):
        network.body.places.data[:5] = network.body.places.data[:5][order]
    permuted = Tokens(tokens.values[:, order], tokens.layout)
    torch.testing.assert_close(other.decode(permuted), tokenizer.decode(tokens), rtol=1e-4, atol=1e-5)
    assert torch.equal(other.encode(pictures()).values, permuted.values)
    assert (tokenizer.decode(permuted) - tokenizer.decode(tokens)).abs().max() > 1e-3


def test_a_class_token_is_read_by_all_and_has_no_output() -> None:
    size = SIZE | {"class_token": True}
    tokenizer = stirred(make(encoder=size, decoder=size)).eval()
    for network, shape in ((tokenizer.encoder, (3, 5, 4)), (tokenizer.decoder, (3, 24, 20))):
        given = pictures() if network is tokenizer.encoder else torch.randn(3, 5, 4)
        before = network(given)
        assert before.shape == shape
        places = network.body.places
        assert len(places) == 5 + len(network.body.coords[5:-1]) + 1
        with torch.no_grad():
            places[-1] += torch.randn(16)
        assert ((network(given) - before).abs().amax(-1) > 1e-5).all()


def test_without_rotation_patches_differ_in_their_vectors_alone() -> None:
    """Permuted patches with permuted vectors give the same latents; with rotation they do not."""
    for rotary in (False, True):
        body = stirred(make(encoder=SIZE | {"rotary": rotary})).encoder.body
        patches, order = torch.randn(2, 6, 16), torch.randperm(6)
        before = body(patches=patches)[0]
        body.places.data[5:] = body.places.data[5:][order]
        assert torch.allclose(body(patches=patches[:, order])[0], before, rtol=1e-4, atol=1e-5) != rotary


def test_the_legacy_reshape_reads_the_features_of_all_latents_in_another_order() -> None:
    """Feature ``c`` of latent ``n`` is number ``c N + n`` of the ``N D`` numbers of all latents."""
    legacy, usual = stirred(make(legacy_reshape=True)).eval(), stirred(make()).eval()
    latents, _ = usual.encoder.body(patches=usual.encoder.patches(pictures()).flatten(2).mT)
    mixed = torch.stack([latents.flatten(1)[:, torch.arange(16) * 5 + n] for n in range(5)], 1)
    torch.testing.assert_close(legacy.encoder(pictures()), usual.encoder.out(mixed))
    assert (legacy.encoder(pictures()) - usual.encoder(pictures())).abs().max() > 0.1


def test_a_tokenizer_without_a_proxy_has_the_second_stage_alone() -> None:
    tokenizer = stirred(alone()).train()
    assert tokenizer.proxy is None
    assert {name for name, _ in tokenizer.named_buffers() if name.startswith("proxy")} == {"proxy_codes"}
    result = tokenizer(pictures(), torch.Generator().manual_seed(0))
    assert result.losses == {}
    assert result.media is not None
    result.media.square().mean().backward()
    assert all((weight.grad is None) == name.startswith(("encoder.", "quantizer.")) for name, weight in tokenizer.named_parameters())
    tokenizer.eval()
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(pictures())), result.media.detach().clamp(-1, 1))
    same = stirred(make()).eval()
    tokenizer.load_state_dict(same.state_dict())
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(pictures())), same.decode(same.encode(pictures())))


def test_the_first_stage_predicts_the_proxys_codes() -> None:
    proxy = make_proxy()
    tokenizer = make(proxy).train()
    result = tokenizer(pictures(), torch.Generator().manual_seed(0), samples_seen=99)
    assert result.media is None
    assert set(result.losses) == {"proxy", "commitment"}
    assert float(result.losses["proxy"].detach()) == pytest.approx(math.log(20), abs=1e-5), "an untrained decoder guesses evenly"
    tokenizer = stirred(make(proxy)).eval()
    losses = tokenizer(pictures()).losses
    logits = tokenizer.decoder(tokenizer.quantizer.decode(tokenizer.encode(pictures()).values))
    targets = proxy.encode(pictures()).values[..., 0]
    expected = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
    torch.testing.assert_close(losses["proxy"], expected)
    sum(losses.values()).backward()
    untouched = {name for name, parameter in tokenizer.named_parameters() if parameter.grad is None}
    assert untouched == {name for name, _ in tokenizer.named_parameters() if name.startswith("pixel_decoder.")}


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_the_second_stage_freezes_all_that_makes_tokens(codebook: str) -> None:
    tokenizer = stirred(
        make(quantizer={"vector": {"codebook_size": 32, "codebook": codebook, "kmeans_iterations": 0, "restart_every": 1}})
    ).train()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    result = tokenizer(pictures(), torch.Generator().manual_seed(0), samples_seen=LATER)
    assert result.losses == {}
    assert result.media is not None
    result.media.square().mean().backward()
    for name, parameter in tokenizer.named_parameters():
        frozen = name.startswith(("encoder.", "quantizer."))
        assert (parameter.grad is None) == frozen, name
        assert frozen or name.startswith("decoder.body.transformer") or parameter.grad.abs().sum() > 0, name  # type: ignore[union-attr]
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items()), "the codebook must not follow"
    torch.testing.assert_close(result.media.clamp(-1, 1), tokenizer.decode(tokenizer.encode(pictures())))


def test_the_quantizer_learns_in_the_first_stage() -> None:
    tokenizer = make().train()
    before = tokenizer.quantizer.codebook.clone()
    tokenizer(pictures(), torch.Generator().manual_seed(0))
    assert not torch.equal(tokenizer.quantizer.codebook, before)


def test_sure_predictions_decode_as_the_proxy_does() -> None:
    """With one-hot logits the soft lookup is the lookup."""
    for proxy in (
        make_proxy(),
        make_proxy(codebook_size=20, normalize=True, kmeans_iterations=0),
        make_proxy(quantizer="finite_scalar", levels=[5, 4]),
    ):
        tokenizer = make(proxy).eval()
        codes = torch.randint(0, 20, (3, 24, 1), generator=torch.Generator().manual_seed(3))
        sure = torch.full((3, 24, 20), -1e4).scatter(-1, codes, 1e4)
        tokenizer.decoder.register_forward_hook(lambda module, arguments, result, sure=sure: sure)
        decoded = tokenizer.decode(Tokens(torch.zeros(3, 5, 1, dtype=torch.long), tokenizer.layout))
        torch.testing.assert_close(decoded, proxy.decode(Tokens(codes, proxy.layout)))


def test_the_proxy_is_a_constant_and_part_of_no_checkpoint() -> None:
    proxy = make_proxy()
    weights = {name: value.clone() for name, value in proxy.state_dict().items()}
    tokenizer = make(proxy).train()
    assert not tokenizer.proxy.training
    assert not list(tokenizer.proxy.parameters())
    assert not any(name.startswith("proxy.") for name in tokenizer.state_dict())
    assert {"proxy_codes", "pixel_decoder.out.weight"} < set(tokenizer.state_dict())
    assert all(parameter.requires_grad for parameter in tokenizer.parameters())
    stirred(tokenizer)
    assert proxy.training is False
    assert all(torch.equal(value, weights[name]) for name, value in proxy.state_dict().items()), "the proxy given is copied"
    assert torch.equal(tokenizer.proxy.encode(pictures()).values, proxy.encode(pictures()).values)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_rounded_checkpoint_needs_no_proxy_either(dtype: StorageDtype, tmp_path: Path) -> None:
    """Its codebook follows averages, which rounded checkpoints store in its place; the proxy's is not theirs to store."""
    proxy = make_proxy(codebook_size=20, codebook="ema", kmeans_iterations=0)
    tokenizer = stirred(make(proxy)).eval()
    save_checkpoint(tmp_path, tokenizer, "", dtype)
    read = make(proxy).eval()
    load_weights(read, tmp_path)
    assert not any(name.startswith("proxy.") for name in load_file(tmp_path / WEIGHTS))
    assert torch.equal(read.proxy_codes, tokenizer.proxy_codes)
    assert torch.equal(read.quantizer.codebook, tokenizer.quantizer.codebook)


@pytest.mark.parametrize(
    ("quantizer", "levels", "codes"),
    [
        ({"vector": {"codebook_size": 16}}, 1, 16),
        ({"finite_scalar": {"levels": [5, 5, 3]}}, 1, 75),
        ({"lookup_free": {"bits": 6}}, 1, 64),
        ({"residual": {"num_codebooks": 2, "quantizer": {"vector": {"codebook_size": 16}}}}, 2, 16),
    ],
)
def test_any_quantizer_serves(quantizer: dict[str, object], levels: int, codes: int) -> None:
    tokenizer = make(quantizer=quantizer)
    assert tokenizer.layout == Layout((5,), levels, codes, axes=("latents",))
    losses = tokenizer(pictures(), torch.Generator().manual_seed(0)).losses
    sum(losses.values()).backward()
    assert tokenizer.decode(tokenizer.encode(pictures())).shape == (3, *MEDIA.shape)


def test_a_few_steps_learn_the_codes_of_one_batch() -> None:
    tokenizer = make(finetune_at=10**9).train()
    optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-2)
    history = []
    for step in range(40):
        losses = tokenizer(pictures(2), torch.Generator().manual_seed(step)).losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(float(losses["proxy"].detach()))
    assert history[-1] < history[0] / 2


def test_what_cannot_be_is_refused() -> None:
    tokenizer = make()
    for call in (tokenizer.encode, tokenizer):
        with pytest.raises(ValueError, match=r"reads \(channels, rows, columns\) = \(3, 16, 24\), not"):
            call(torch.zeros(1, 3, 24, 16))
    with pytest.raises(ValueError, match="these tokens are not this tokenizer's"):
        tokenizer.decode(Tokens(torch.zeros(1, 5, 1, dtype=torch.long), Layout((5,), 1, 64)))
    with pytest.raises(ValueError, match="16 x 24 pixels do not divide into patches of 5 x 5"):
        make(patch=5)
    with pytest.raises(ValueError, match="such as vq-emoji, not a PixelTokenizer"):
        make(PixelTokenizer(MEDIA, Pixels()))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the proxy 'p' was made for .*3 x 16 x 16.* set data\.size to fit"):
        make(make_proxy(image_medium(3, (16, 16))))
    with pytest.raises((ValidationError, RecipeError), match="by a proxy, or by pixels without one, and there are both"):
        parse_part("tokenizer", {"titok": {"finetune_at": 0, "proxy": "p", "pixels": {}}})
    with pytest.raises((ValidationError, RecipeError), match="by a proxy, or by pixels without one, and there is neither"):
        parse_part("tokenizer", {"titok": {"finetune_at": 0}})
    with pytest.raises((ValidationError, RecipeError), match="the stage before it learns the codes of a proxy: set it to 0"):
        parse_part("tokenizer", {"titok": {"finetune_at": 5, "pixels": {}}})
    for wrong in ({"tokens": 0}, {"encoder": {"width": 18, "heads": 4}}, {"decoder": {"width": 12, "heads": 6}}, {"finetune_at": -1}):
        with pytest.raises((ValidationError, RecipeError)):
            make(**wrong)


def test_the_recipes_say_what_the_paper_does() -> None:
    settings = load("titok").tokenizer
    assert settings.tokens * math.log2(settings.quantizer.codebook_size) == 384  # type: ignore[union-attr]
    order = load("titok-maskgit").order.build()  # type: ignore[union-attr]
    assert [step.hidden_after for step in order.steps(32, None)] == [29, 26, 24, 21, 18, 14, 10, 0]
