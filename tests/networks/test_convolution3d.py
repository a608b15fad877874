"""Causal convolutions over clips: chunks are the whole, nothing looks ahead, and public implementations give the same numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from jielong.networks.axial import AxialAttention, StridedConv3d, StridedConvTranspose3d
from jielong.networks.convolution3d import (
    CausalConv3d,
    DepthToSpace,
    FactorizedConv3d,
    FirstFrameOnce,
    FrameGroupNorm,
    PixelRMSNorm,
    Repeat,
)
from jielong.networks.streaming import StreamingModule, StreamingSequential

CHUNKS = [[1] * 9, [9], [3, 0, 5, 1], [4, 5]]


def layers() -> dict[str, StreamingModule]:
    torch.manual_seed(0)
    modules = {
        "convolution": CausalConv3d(4, 6),
        "of zeros": CausalConv3d(4, 6, beginning="constant"),
        "of one frame": CausalConv3d(4, 6, (1, 3)),
        "strided": CausalConv3d(4, 6, (3, 3), (2, 2)),
        "strided by 4": CausalConv3d(4, 6, (5, 2), (4, 2), "constant"),
        "factorised": FactorizedConv3d(4, 6, (3, 3), (2, 2)),
        "nearest": StreamingSequential(Repeat((2, 2)), FirstFrameOnce(2), CausalConv3d(4, 6)),
        "depth to space": StreamingSequential(CausalConv3d(4, 24 * 3, (1, 1)), DepthToSpace((3, 2)), FirstFrameOnce(3)),
    }
    for parameter in itertools.chain.from_iterable(layer.parameters() for layer in modules.values()):
        parameter.data += 0.1 * torch.randn_like(parameter)
    return modules


NAMES = list(layers())


def clips(frames: int = 9, channels: int = 4, side: int = 6, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, frames, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sizes", CHUNKS, ids=["ones", "whole", "any", "two"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_chunks_are_the_whole(name: str, sizes: list[int]) -> None:
    layer, x = layers()[name], clips()
    with layer.streaming(2) as stream:
        parts = [layer(part) for part in x.split(sizes, dim=2)]
        stream.finish()
        parts.append(layer(x[:, :, :0]))
    torch.testing.assert_close(torch.cat(parts, dim=2), layer(x), atol=1e-5, rtol=1e-5)
    given, returned = itertools.accumulate(sizes), itertools.accumulate(part.shape[2] for part in parts)
    for frames, outputs in zip(given, returned, strict=False):
        assert layer.required_inputs(outputs) <= frames < layer.required_inputs(outputs + 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_depends_on_no_later_one_and_the_first_stands_alone(name: str) -> None:
    layer, x = layers()[name], clips().requires_grad_()
    y = layer(x)
    for output in range(y.shape[2]):
        (slope,) = torch.autograd.grad(y[:, :, output].square().sum(), x, retain_graph=True)
        last = layer.required_inputs(output + 1)
        assert slope[:, :, :last].abs().sum() > 0
        assert not slope[:, :, last:].any()
    torch.testing.assert_close(layer(x[:, :, :1]), y[:, :, :1])


def test_the_clips_of_a_stream_are_in_step() -> None:
    for name, layer in layers().items():
        with torch.no_grad(), layer.streaming(2) as stream:
            layer(clips())
            if name != "of one frame":
                with pytest.raises(ValueError, match="reset here: the first frame of a clip stands alone"):
                    stream.reset(0)
            stream.reset()
            torch.testing.assert_close(layer(clips()), layers()[name](clips()), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="a kernel of 2 pixels at a stride of 3"):
        CausalConv3d(1, 1, (1, 2), (1, 3))


@torch.no_grad()
def test_public_causal_convolutions_give_the_same() -> None:
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXCausalConv3d
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import HunyuanVideoCausalConv3d
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm

    x, ours = clips(), CausalConv3d(4, 6)
    cogvideo = CogVideoXCausalConv3d(4, 6, 3, pad_mode="first")
    cogvideo.conv.load_state_dict(ours.conv.state_dict())
    torch.testing.assert_close(ours(x), cogvideo(x)[0], atol=1e-5, rtol=1e-5)
    for stride in (1, 2):
        zeros = CausalConv3d(4, 6, (3, 1), (stride, 1), "constant")
        wan = WanCausalConv3d(4, 6, (3, 1, 1), (stride, 1, 1), padding=(1, 0, 0))
        wan.load_state_dict(zeros.conv.state_dict())
        torch.testing.assert_close(zeros(x), wan(x), atol=1e-5, rtol=1e-5)
        along_time = CausalConv3d(4, 6, (3, 3), (stride, 1))
        hunyuan = HunyuanVideoCausalConv3d(4, 6, 3, (stride, 1, 1))  # which repeats pixels beyond the edges of a frame, too
        hunyuan.conv.load_state_dict(along_time.conv.state_dict())
        inner = (..., slice(1, -1), slice(1, -1))
        torch.testing.assert_close(along_time(x)[inner], hunyuan(x)[inner], atol=1e-5, rtol=1e-5)
    norm = PixelRMSNorm(4)
    norm.weight += torch.randn(4)
    wan_norm = WanRMS_norm(4, images=False)
    wan_norm.gamma.copy_(norm.weight.view_as(wan_norm.gamma))
    torch.testing.assert_close(norm(x), wan_norm(x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_public_upsampling_of_time_gives_the_same() -> None:
    from diffusers.models.upsampling import CogVideoXUpsample3D

    public, conv = CogVideoXUpsample3D(4, 6, compress_time=True), FactorizedConv3d(4, 6)
    conv.layers[0].conv.load_state_dict({"weight": public.conv.weight[:, :, None], "bias": public.conv.bias})
    for frames in (1, 3, 5):  # it takes an odd number of frames for a clip, whose first one stands alone
        ours = StreamingSequential(Repeat((2, 2)), FirstFrameOnce(2), conv)
        torch.testing.assert_close(ours(clips(frames)), public(clips(frames)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_norms_are_of_a_frame_and_of_a_pixel() -> None:
    x, changed = clips(channels=8), clips(channels=8)
    changed[:, :, 3, 2, 1] += 5.0
    group, pixel = FrameGroupNorm(2, 8), PixelRMSNorm(8)
    frames = torch.stack([nn.functional.group_norm(frame, 2) for frame in x.unbind(2)], dim=2)
    torch.testing.assert_close(group(x), frames)
    assert (group(x) != group(changed)).any(dim=(0, 1, 3, 4)).nonzero().tolist() == [[3]]
    assert (pixel(x) != pixel(changed)).any(dim=(0, 1)).nonzero().tolist() == [[3, 2, 1]]
    torch.testing.assert_close(pixel(x).square().mean(1), torch.ones(2, 9, 6, 6), atol=1e-4, rtol=0)
    assert group(x[:, :, :0]).shape == pixel(x[:, :, :0]).shape == (2, 8, 0, 6, 6)


@torch.no_grad()
def test_depth_to_space_is_pixel_shuffle_of_every_frame() -> None:
    x = clips(channels=12)
    frames = torch.stack([nn.functional.pixel_shuffle(frame, 2) for frame in x.unbind(2)], dim=2)
    assert torch.equal(DepthToSpace((1, 2))(x), frames)
    along_time = DepthToSpace((3, 1))(x)  # channel 3 c + s is frame 3 t + s
    assert torch.equal(along_time[:, :, 1::3], x[:, 1::3])


@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 2, 2), (1, 1, 2)])
@torch.no_grad()
def test_strided_convolutions_pad_what_is_missing(stride: tuple[int, int, int]) -> None:
    """At a stride of 2 the transposed one is the adjoint; at 1 both see two places before theirs and one after it, as published."""
    down, up = StridedConv3d(2, 3, stride), StridedConvTranspose3d(3, 2, stride)
    x, y = torch.randn(2, 2, 4, 8, 8), torch.randn(2, 3, 4 // stride[0], 8 // stride[1], 8 // stride[2])
    assert down(x).shape == y.shape
    assert up(y).shape == x.shape
    if stride == (2, 2, 2):  # <A x, y> = <x, A' y> without the biases
        up.weight.copy_(down.weight)
        left = ((down(x) - down.bias.view(-1, 1, 1, 1)) * y).sum()
        torch.testing.assert_close(left, (x * (up(y) - up.bias.view(-1, 1, 1, 1))).sum(), atol=1e-3, rtol=1e-4)
    for layer, given in ((down, x), (up, y)):
        for axis, each in enumerate(stride, start=2):
            if each == 1:
                at = 2
                moved = given.clone()
                moved.select(axis, at).add_(1.0)
                changed = (layer(moved) != layer(given)).movedim(axis, 0).flatten(1).any(1).nonzero().flatten().tolist()
                assert changed == [place for place in range(at - 1, at + 3) if place < given.shape[axis]]


def test_axial_attention_sees_three_lines() -> None:
    """The Jacobian of a cell: those that share two of its three coordinates, and no other."""
    torch.manual_seed(0)
    attention, x = AxialAttention(4, 2), torch.randn(1, 4, 3, 4, 5, requires_grad=True)
    (slope,) = torch.autograd.grad(attention(x)[0, :, 1, 2, 3].sum(), x)
    reached = slope[0].abs().sum(0) > 0
    wanted = torch.zeros(3, 4, 5, dtype=torch.bool)
    wanted[:, 2, 3] = wanted[1, :, 3] = wanted[1, 2, :] = True
    assert torch.equal(reached, wanted)


@torch.no_grad()
def test_axial_attention_is_the_sum_of_attention_along_each_axis() -> None:
    torch.manual_seed(0)
    attention, x = AxialAttention(4, 2), torch.randn(2, 4, 3, 4, 5)
    wanted = torch.zeros_like(x)
    for axis, (qkv, out) in enumerate(zip(attention.qkv, attention.out, strict=True), start=2):
        public = nn.MultiheadAttention(4, 2, batch_first=True)
        public.in_proj_weight.copy_(qkv.weight)
        public.in_proj_bias.zero_()
        public.out_proj.load_state_dict(out.state_dict())
        lines = x.movedim(1, -1).movedim(axis - 1, -2)
        mixed = public(*[lines.flatten(0, 2)] * 3)[0]
        wanted += mixed.unflatten(0, lines.shape[:3]).movedim(-2, axis - 1).movedim(-1, 1)
    torch.testing.assert_close(attention(x), wanted, atol=1e-5, rtol=1e-5)
    shuffled = torch.tensor([2, 0, 1])  # nothing but the pairing of frames depends on their order: it commutes with all three
    torch.testing.assert_close(attention(x[:, :, shuffled]), attention(x)[:, :, shuffled], atol=1e-5, rtol=1e-5)
