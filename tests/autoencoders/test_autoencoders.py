"""Every autoencoder serves the grid tokenizer."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save

from jielong.autoencoders.base import AutoencoderSettings
from jielong.autoencoders.convolutional import Convolutional
from jielong.autoencoders.resnet import Resnet
from jielong.autoencoders.vit import ViT
from jielong.config.recipe import parse
from jielong.config.registry import parse_part, parts_of
from jielong.media.kinds.image import image_medium
from jielong.quantizers.vector import Vector
from jielong.tokenizers.vq import VQ, VQTokenizer

SMALL = {
    "convolutional": Convolutional(channels=(8, 16), patch=2),
    "vit": ViT(patch=4, layers=1, width=16, heads=2, decoder_layers=2, decoder_width=24),
    "resnet": Resnet(channels=(8, 8, 16), blocks=1, groups=4, attention=True),
    "vit, learned": ViT(patch=4, layers=1, width=16, heads=2, positions="learned"),
}
AUTOENCODERS = pytest.mark.parametrize("autoencoder", SMALL.values(), ids=SMALL)


def make(autoencoder: AutoencoderSettings) -> VQTokenizer:
    torch.manual_seed(0)
    return VQ(autoencoder=autoencoder, dim=4, quantizer=Vector(codebook_size=32, kmeans_iterations=0)).build(image_medium(3, (8, 12)))


def pictures(batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, 3, 8, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_none_is_left_out() -> None:
    timed = {name for name, part in parts_of("autoencoder").items() if "time" in (getattr(part, "axes", None) or ())}  # tests of their own
    assert {part.name for part in SMALL.values()} == set(parts_of("autoencoder")) - timed


@AUTOENCODERS
def test_settings_are_written_and_read_back_equal_and_say_how_many_maps_come_out(autoencoder: AutoencoderSettings) -> None:
    assert parse_part("autoencoder", autoencoder.model_dump(mode="json")) == autoencoder
    built = autoencoder.build(channels=2, size=(8, 12), dim=5, outputs=7)
    features = built.encoder(torch.zeros(1, 2, 8, 12))
    assert features.shape == (1, 5, 8 // built.reduction[0], 12 // built.reduction[1])
    assert built.decoder(features).shape == (1, 7, 8, 12)
    with pytest.raises(ValueError, match="8 x 13 do not divide into tokens of 4 x 4"):
        autoencoder.build(channels=2, size=(8, 13), dim=5)
    with pytest.raises(
        ValueError,
        match=rf"the autoencoder {autoencoder.name} reads \(rows, columns\), not a size of 1: choose one of dac, seanet, vocos",
    ):
        autoencoder.build(channels=1, size=(96,), dim=5)


@AUTOENCODERS
def test_a_tokenizer_of_it_is_itself_again_from_its_weights(autoencoder: AutoencoderSettings) -> None:
    tokenizer = make(autoencoder).eval()
    tokens = tokenizer.encode(pictures())
    assert tokens.layout.grid == (2, 3)
    again = make(autoencoder).eval()
    for parameter in again.parameters():
        parameter.data.zero_()
    again.load_state_dict(load(save({name: value.contiguous() for name, value in tokenizer.state_dict().items()})))
    assert torch.equal(again.encode(pictures()).values, tokens.values)
    assert torch.equal(again.decode(tokens), tokenizer.decode(tokens))


@AUTOENCODERS
def test_a_few_steps_of_training_reconstruct_better(autoencoder: AutoencoderSettings) -> None:
    tokenizer = make(autoencoder).train()
    optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-2)
    media = pictures(2) * 0.1 + 0.5
    errors = []
    for step in range(15):
        result = tokenizer(media, generator=torch.Generator().manual_seed(step))
        loss = (result.media - media).square().mean()
        optimizer.zero_grad()
        (loss + sum(result.losses.values())).backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < errors[0] / 4


def test_heads_that_do_not_fit_are_refused() -> None:
    for wrong in [{"width": 30, "heads": 4}, {"width": 6, "heads": 3}, {"width": 16, "heads": 4, "decoder_width": 8}]:
        with pytest.raises(ValidationError, match="must be an even multiple of"):
            ViT(**wrong)
    with pytest.raises(ValidationError, match="decoder_width 8 must be an even multiple of decoder_heads 4"):
        ViT(width=16, heads=4, decoder_width=8)


@pytest.mark.parametrize("tokenizer", ["vq", "kl"])
def test_a_size_that_does_not_divide_is_refused_when_the_recipe_is_read(tokenizer: str) -> None:
    recipe = f"data: {{set: emoji, size: 20}}\ntokenizer: {tokenizer}\nlosses: {{regression: {{}}}}\ntrain: {{samples: 8, batch: 8}}\n"
    with pytest.raises(ValueError, match="media of size 20 x 20 do not divide into tokens of 8 x 8: choose sizes that are multiples"):
        parse(recipe)
    assert parse(recipe.replace("20", "24")).tokenizer is not None
