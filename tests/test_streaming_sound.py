"""Tokens decoded piece by piece sound as they do decoded at once, whatever the decoder looks ahead."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jielong.autoencoders.base import Autoencoder, AutoencoderSettings
from jielong.autoencoders.seanet import SEANet
from jielong.autoencoders.vocos import Vocos
from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import TokenChunk
from jielong.generation.streaming import stream_sound
from jielong.media.kinds.audio import audio_medium
from jielong.networks.decoder import Decoder
from jielong.quantizers.residual import Residual
from jielong.quantizers.vector import Vector
from jielong.tokenizers.vq import VQ, VQTokenizer

HOP, N = 4, 12


class Blurred(Decoder):
    """A stretch a token, smoothed over ``reach`` tokens on both sides; or normalised over all of them."""

    def __init__(self, reach: int, everything: bool) -> None:
        super().__init__()
        self.blur = nn.Conv1d(8, 8, 2 * reach + 1, padding=reach)
        self.norm = nn.GroupNorm(1, 8) if everything else nn.Identity()
        self.out = nn.ConvTranspose1d(8, 1, HOP, HOP)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(self.norm(self.blur(features)))

    @property
    def last_layer(self) -> nn.Parameter:
        return self.out.weight


def make(reach: int = 0, everything: bool = False) -> VQTokenizer:
    torch.manual_seed(0)
    autoencoder = Autoencoder(nn.Conv1d(1, 8, HOP, HOP), Blurred(reach, everything), (HOP,))
    media = audio_medium(1, HOP * N, 400)
    return VQTokenizer(media, autoencoder, Vector.model_validate({"codebook_size": 9}).build(8)).eval()


def pieces_of(values: Tensor, lengths: list[int], sizes: list[int]) -> list[TokenChunk]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    ends = torch.tensor(lengths)
    return [TokenChunk(start, values[:, start : start + size], ends) for start, size in zip(starts, sizes, strict=True)]


@pytest.mark.parametrize(("reach", "everything", "ahead"), [(0, False, 0), (1, False, 1), (3, False, 3), (1, True, N)])
def test_what_a_decoder_looks_ahead_is_measured(reach: int, everything: bool, ahead: int) -> None:
    assert min(make(reach, everything).receptive_field.after, N - 1) == min(ahead, N - 1)


@pytest.mark.parametrize("sizes", [[1] * 9, [4, 3, 2], [9]])
@pytest.mark.parametrize(("reach", "everything"), [(0, False), (2, False), (1, True)])
@pytest.mark.parametrize("lengths", [[9, 9], [9, 4]])
def test_pieces_together_are_the_whole(reach: int, everything: bool, lengths: list[int], sizes: list[int]) -> None:
    tokenizer = make(reach, everything)
    values = torch.randint(0, 9, (2, N, 1), generator=torch.Generator().manual_seed(1))
    whole = tokenizer.decode_padded(Tokens(values, tokenizer.layout, torch.tensor(lengths)))
    sound = list(stream_sound(tokenizer, pieces_of(values, lengths, sizes)))
    torch.testing.assert_close(torch.cat(sound, dim=2), whole[..., : 9 * HOP])
    assert (len(sound) == 1) == (everything or len(sizes) == 1)
    cut = torch.cat(list(stream_sound(tokenizer, pieces_of(values, lengths, sizes), [34, 13])), dim=2)
    assert cut.shape[2] == 34
    torch.testing.assert_close(cut[0], whole[0, :, :34])
    assert not cut[1, :, 13:].any()
    torch.testing.assert_close(cut[1, :, :13], whole[1, :, :13])


def test_sound_comes_as_soon_as_it_is_settled() -> None:
    tokenizer = make(2)
    values = torch.zeros(1, N, 1, dtype=torch.long)
    read = 0

    def counted() -> object:
        nonlocal read
        for piece in pieces_of(values, [N], [1] * N):
            read += 1
            yield piece

    next(iter(stream_sound(tokenizer, counted())))  # type: ignore[arg-type]
    assert read == 3


@pytest.mark.parametrize("lengths", [[9, 9], [9, 4]])
def test_a_causal_codec_decodes_each_token_once(lengths: list[int]) -> None:
    torch.manual_seed(0)
    codes = Residual.model_validate({"num_codebooks": 2, "quantizer": Vector.model_validate({"codebook_size": 9})})
    codec = (
        VQ(autoencoder=SEANet(channels=4, ratios=(2, 2), causal=True), dim=8, quantizer=codes).build(audio_medium(1, HOP * N, 400)).eval()
    )
    values = torch.randint(0, 9, (2, N, 2), generator=torch.Generator().manual_seed(1))
    whole = codec.decode_padded(Tokens(values, codec.layout, torch.tensor(lengths)))
    decoded: list[int] = []
    codec.decoder.register_forward_hook(lambda module, given, result: decoded.append(given[0].shape[-1]))
    sound = list(stream_sound(codec, pieces_of(values, lengths, [2, 1, 5, 1])))
    assert decoded == [2, 1, 5, 1]
    assert [piece.shape[2] for piece in sound] == [2 * HOP, HOP, 5 * HOP, HOP]
    torch.testing.assert_close(torch.cat(sound, dim=2), whole[..., : 9 * HOP], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [9, 4])
def test_a_codec_whose_beginning_is_reflected_gives_it_late(count: int) -> None:
    torch.manual_seed(0)
    codes = Vector.model_validate({"codebook_size": 9})
    autoencoder = SEANet(channels=4, ratios=(2, 2), padding="reflect")
    codec = VQ(autoencoder=autoencoder, dim=8, quantizer=codes).build(audio_medium(1, HOP * N, 400)).eval()
    values = torch.randint(0, 9, (2, count, 1), generator=torch.Generator().manual_seed(1))
    whole = codec.decode(Tokens(values, Layout((count,), 1, 9)))
    sound = list(stream_sound(codec, pieces_of(values, [count, count], [1] * count)))
    assert [piece.shape[2] // HOP for piece in sound] == ([7, 1, 1] if count == 9 else [4])
    torch.testing.assert_close(torch.cat(sound, dim=2), whole, atol=1e-5, rtol=1e-4)


LOOKING_AHEAD = [SEANet(channels=4, ratios=(2, 2), causal=False, lstm=0), Vocos(window=8, stride=2, width=8, layers=2, kernel=3)]


@pytest.mark.parametrize("autoencoder", LOOKING_AHEAD, ids=lambda autoencoder: autoencoder.name)
def test_a_part_of_the_sound_is_decoded_from_the_tokens_around_it(autoencoder: AutoencoderSettings) -> None:
    torch.manual_seed(0)
    count = 64
    codec = (
        VQ(autoencoder=autoencoder, dim=8, quantizer=Vector.model_validate({"codebook_size": 9}))
        .build(audio_medium(1, HOP * count, 400))
        .eval()
    )
    values = torch.randint(0, 9, (2, count, 1), generator=torch.Generator().manual_seed(1))
    whole = codec.decode(Tokens(values, codec.layout))
    decoded: list[int] = []
    assert 0 < codec.receptive_field.before < count // 3
    assert 0 < codec.receptive_field.after < count // 3
    codec.decoder.register_forward_hook(lambda module, given, result: decoded.append(given[0].shape[-1]))
    for start, stop in [(0, 3), (30, 34), (60, 64), (0, count)]:
        torch.testing.assert_close(codec.decode_between(values, start, stop), whole[..., start * HOP : stop * HOP], atol=1e-5, rtol=1e-4)
    assert decoded[1] == codec.receptive_field.before + 4 + codec.receptive_field.after
    assert decoded[3] == count
    ended = codec.decode_padded(Tokens(values, codec.layout, torch.tensor([5, 3])))
    assert ended.shape == whole.shape
    assert decoded[-1] == 5 + codec.receptive_field.after


def test_first_chunk_is_yielded_before_the_rest_is_decoded() -> None:
    torch.manual_seed(0)
    count = 64
    codes = Vector.model_validate({"codebook_size": 9})
    codec = VQ(autoencoder=LOOKING_AHEAD[1], dim=8, quantizer=codes).build(audio_medium(1, HOP * count, 400)).eval()
    values = torch.randint(0, 9, (1, count, 1), generator=torch.Generator().manual_seed(1))
    whole = codec.decode_padded(Tokens(values, codec.layout, torch.tensor([60])))
    assert codec.receptive_field.after > 0
    decoded: list[int] = []
    codec.decoder.register_forward_hook(lambda module, given, result: decoded.append(given[0].shape[-1]))
    stream = stream_sound(codec, pieces_of(values[:, :60], [60], [60]))
    first = next(stream)
    assert first.shape[2] == 12 * HOP
    assert decoded == [12 + codec.receptive_field.after]
    sound = [first, *stream]
    assert [piece.shape[2] // HOP for piece in sound] == [12, 24, 24]
    torch.testing.assert_close(torch.cat(sound, dim=2), whole[..., : 60 * HOP], atol=1e-5, rtol=1e-4)


def test_silence_is_encoded_again_only_when_weights_changed() -> None:
    tokenizer, passes = make(1), 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    tokenizer.encoder.register_forward_hook(count)
    silence = tokenizer.silence_tokens
    assert tokenizer.silence_tokens is silence
    assert passes == 1
    with torch.no_grad():
        next(tokenizer.encoder.parameters()).add_(1.0)
    tokenizer.silence_tokens  # noqa: B018
    assert passes == 2
