"""Two threads that share one tokenizer get what each gets alone: its weights hold no state of a call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from jielong.autoencoders.base import AutoencoderSettings
from jielong.autoencoders.seanet import DAC, Context, SEANet
from jielong.autoencoders.vocos import Vocos
from jielong.media.kinds.audio import audio_medium
from jielong.networks.streaming import StreamingModule
from jielong.networks.time_layer import fold
from jielong.quantizers.residual import Residual
from jielong.quantizers.vector import Vector
from jielong.tokenizers import grid
from jielong.tokenizers.vq import VQ, VQTokenizer

HOP = 24
AUTOENCODERS: dict[str, AutoencoderSettings] = {
    "seanet": SEANet(channels=4, ratios=(4, 3, 2)),
    "dac": DAC(channels=4, ratios=(4, 3, 2)),
    "vocos": Vocos(window=48, stride=12, width=8, layers=1, downsample=2),
    "mimi": SEANet(channels=4, ratios=(4, 3), lstm=0, norm="none", transformer=Context(layers=1, heads=2, window=5), downsample=2),
}
Call = Callable[[], None]
"""Waits until the other thread has come as far."""


def make(name: str) -> VQTokenizer:
    torch.manual_seed(0)
    codes = Residual(num_codebooks=2, quantizer=Vector(codebook_size=32, kmeans_iterations=0))
    tokenizer = VQ(autoencoder=AUTOENCODERS[name], dim=8, quantizer=codes).build(audio_medium(1, 10 * HOP, 24_000)).eval()
    for half in (tokenizer.encoder, tokenizer.decoder):
        for parameter in half.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    features = tokenizer.features(sound(0)).detach().mT.flatten(0, 1)
    for number, stage in enumerate(tokenizer.quantizer.stages):
        stage.codebook.copy_(features.mean(0) * (number == 0) + features.std(0) * torch.randn(32, 8))
    return tokenizer.requires_grad_(False)


def sound(seed: int) -> Tensor:
    return torch.rand(1, 1, 20 * HOP, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def in_step(work: Callable[[int, Call], list[Tensor]]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Results of ``work(0)`` and ``work(1)``: one after the other, and in two threads that wait for each other at every call."""
    alone = [work(number, lambda: None) for number in (0, 1)]
    barrier = threading.Barrier(2, timeout=60)

    def meet() -> None:
        barrier.wait()

    def run(number: int) -> list[Tensor]:
        try:
            return work(number, meet)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(2) as pool:
        return alone, list(pool.map(run, (0, 1)))


def check(alone: list[list[Tensor]], together: list[list[Tensor]]) -> None:
    for expected, found in zip(alone, together, strict=True):
        assert len(expected) == len(found) > 0
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert not torch.equal(alone[0][-1], alone[1][-1])


@pytest.mark.parametrize("half", ["encoder", "decoder"])
@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.no_grad()
def test_each_thread_streams_its_own_sound(name: str, half: str) -> None:
    tokenizer = make(name)
    network = getattr(tokenizer, half)
    assert isinstance(network, StreamingModule)

    @torch.no_grad()
    def work(number: int, meet: Call) -> list[Tensor]:
        media = sound(number + 1)
        x = media if half == "encoder" else tokenizer.encoder(media)
        chunks, outputs = x.split(2 * HOP + 5 if half == "encoder" else 3, dim=-1), []
        meet()
        with network.streaming() as stream:
            for index, chunk in enumerate(chunks, 1):
                meet()  # now both are inside a stream of the same layers
                if index == len(chunks):
                    stream.finish()
                outputs.append(network(chunk))
            meet()
        return [*outputs, network(x)]

    alone, together = in_step(work)
    check(alone, together)
    for outputs in alone:
        torch.testing.assert_close(torch.cat(outputs[:-1], dim=-1), outputs[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "not folded"])
@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.no_grad()
def test_each_thread_encodes_and_decodes_its_own_sound(name: str, folded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make(name)
    if folded:
        fold(tokenizer)
    monkeypatch.setattr(grid, "PIECE", 4 * HOP)
    monkeypatch.setattr(grid, "FRAMES", 1)
    waits = threading.local()
    for half in (tokenizer.encoder, tokenizer.decoder):  # the threads meet before every piece of a long sound
        half.register_forward_pre_hook(lambda module, inputs: waits.meet())

    @torch.no_grad()
    def work(number: int, meet: Call) -> list[Tensor]:
        waits.meet = meet
        tokens = tokenizer.encode(sound(number + 1))
        return [tokens.values, tokenizer.decode(tokens)]

    check(*in_step(work))


@pytest.mark.parametrize("name", ["seanet", "mimi"])
@torch.no_grad()
def test_one_thread_streams_while_the_other_encodes_whole(name: str) -> None:
    tokenizer = make(name)

    @torch.no_grad()
    def work(number: int, meet: Call) -> list[Tensor]:
        media, outputs = sound(number + 1), []
        if number == 0:
            with tokenizer.streaming(1):
                for chunk in media.split(5 * HOP, dim=-1):
                    meet()
                    tokens = tokenizer.encode(chunk)
                    outputs += [tokens.values, tokenizer.decode(tokens)]
            return outputs
        for _ in range(4):
            meet()
            tokens = tokenizer.encode(media)
            outputs += [tokens.values, tokenizer.decode(tokens)]
        return outputs

    check(*in_step(work))
