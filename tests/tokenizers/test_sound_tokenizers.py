"""The grid tokenizers over media of one axis: the same class, with a grid ``(n,)``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jielong.autoencoders.base import Autoencoder, check_grid
from jielong.core.tokens import Layout, Tokens
from jielong.media.kinds.audio import audio_medium
from jielong.media.kinds.image import image_medium
from jielong.networks.decoder import Decoder
from jielong.quantizers.residual import Residual
from jielong.quantizers.vector import Vector
from jielong.system import describe
from jielong.system.checkpoint import read_description
from jielong.tokenizers.kl import KL, KLTokenizer
from jielong.tokenizers.vq import VQTokenizer

HOP, DIM = 8, 6
MEDIA = audio_medium(2, 80, 16_000)


class Unfold(Decoder):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.out = nn.ConvTranspose1d(DIM, outputs, HOP, HOP)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(features)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.out.weight


def autoencoder(encoded: int = DIM) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(nn.Conv1d(MEDIA.channels, encoded, HOP, HOP), Unfold(MEDIA.channels), (HOP,))


def sound(batch: int = 3) -> Tensor:
    return torch.rand(batch, *MEDIA.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def codec() -> VQTokenizer:
    return VQTokenizer(MEDIA, autoencoder(), Residual(num_codebooks=3, quantizer=Vector(codebook_size=16)).build(DIM)).eval()


def test_codes_of_sound_stand_in_a_row() -> None:
    tokenizer = codec()
    assert tokenizer.layout == Layout((10,), 3, 16)
    tokens = tokenizer.encode(sound())
    assert tokens.values.shape == (3, 10, 3)
    # By hand: the residual quantizer of every stretch's features, and the decoder of the sum of its codes.
    features = tokenizer.encoder(sound()).mT
    assert torch.equal(tokens.values, tokenizer.quantizer.encode(features))
    torch.testing.assert_close(tokenizer.decode(tokens), tokenizer.decoder(tokenizer.quantizer.decode(tokens.values).mT).clamp(-1, 1))


def test_leading_levels_decode_alone() -> None:
    tokenizer = codec()
    tokens = tokenizer.encode(sound())
    for count in (1, 2):
        fewer = Tokens(tokens.values[..., :count], Layout((10,), count, 16))
        torch.testing.assert_close(tokenizer.decode(fewer), tokenizer.decoder(tokenizer.quantizer.decode(fewer.values).mT).clamp(-1, 1))


def test_gradients_reach_both_halves() -> None:
    tokenizer = codec().train()
    result = tokenizer(sound(), generator=torch.Generator().manual_seed(0))
    assert result.media is not None
    assert result.media.shape == (3, *MEDIA.shape)
    (result.media.square().mean() + sum(result.losses.values())).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in tokenizer.encoder.parameters())
    assert tokenizer.last_layer.grad is not None


def test_what_is_not_known_is_silent() -> None:
    tokenizer = codec()
    tokens = tokenizer.encode(sound(1))
    known = torch.zeros(1, 10, dtype=torch.bool)
    known[0, 2:4] = True
    partial, whole = tokenizer.decode_known(tokens, known), tokenizer.decode(tokens)
    assert torch.equal(partial[..., 16:32], whole[..., 16:32])
    assert not partial[..., :16].any()
    assert not partial[..., 32:].any()


def test_vectors_of_sound() -> None:
    tokenizer = KLTokenizer(MEDIA, autoencoder(2 * DIM), KL(dim=DIM)).eval()
    tokenizer.calibrate([sound(8)])
    tokens = tokenizer.encode(sound(8))
    assert tokens.layout == Layout((10,), DIM)
    mean, log_variance = tokenizer.encoder(sound(8)).mT.chunk(2, dim=-1)
    torch.testing.assert_close(tokenizer.decode(tokens), tokenizer.decoder(mean.mT).clamp(-1, 1), atol=1e-5, rtol=1e-5)
    assert tokenizer.encode_to_cache(sound(2)).values.shape == (2, 10, 2 * DIM)
    spread = tokenizer.encode_to_cache(sound(8)).values
    whole = spread[..., :DIM].var(dim=(0, 1), unbiased=False) + spread[..., DIM:].exp().mean(dim=(0, 1))
    torch.testing.assert_close(whole, torch.ones(DIM), atol=1e-4, rtol=1e-4)
    assert log_variance.shape == (8, 10, DIM)


def test_means_and_variances_of_sounds_that_end_decode_like_the_means() -> None:
    tokenizer = KLTokenizer(MEDIA, autoencoder(2 * DIM), KL(dim=DIM)).eval()
    lengths = torch.tensor([2, 10, 7])
    cached, tokens = (replace(each, lengths=lengths) for each in (tokenizer.encode_to_cache(sound()), tokenizer.encode(sound())))
    decoded = tokenizer.decode_padded(cached)
    assert torch.equal(decoded, tokenizer.decode_padded(tokens))
    assert [int(row.any(0).nonzero().max()) + 1 for row in decoded] == [HOP * int(length) for length in lengths]
    known = torch.arange(10) < lengths[:, None]
    assert torch.equal(tokenizer.decode_known(cached, known), tokenizer.decode_known(tokens, known))


def test_sizes_are_checked_in_words() -> None:
    with pytest.raises(ValueError, match=r"reads \(channels, time\) = \(2, 80\), not \(1, 80\)"):
        codec().encode(torch.zeros(1, 1, 80))
    with pytest.raises(ValueError, match="size 81 do not divide into tokens of 8"):
        check_grid((81,), (HOP,))
    with pytest.raises(ValueError, match="not this tokenizer's"):
        codec().decode(Tokens(torch.zeros(1, 10, 4, dtype=torch.long), Layout((10,), 4, 16)))


def test_a_description_keeps_the_rate_and_old_ones_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(describe(MEDIA, [], codec(), None)))
    assert read_description(path)[1] == MEDIA
    path.write_text(json.dumps({"media": image_medium(3, (64, 48)).to_json(), "classes": [], "tokenizer_sha256": None}))
    assert read_description(path)[1] == image_medium(3, (64, 48))
    assert str(image_medium(3, (64, 48))) == "image of 3 x 64 x 48"
    assert str(audio_medium(1, 800, 16_000)) == "audio of 1 x 800 at 16000 Hz"
