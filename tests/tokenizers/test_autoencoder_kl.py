"""The published autoencoder and its tokenizer: equal to diffusers' AutoencoderKL on the same weights."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from jielong.autoencoders.resnet import Resnet
from jielong.core.tokens import Tokens
from jielong.media.kinds.image import image_medium
from jielong.networks.convolutional import ResidualBlock, SpatialAttention
from jielong.networks.posterior import DiagonalGaussian
from jielong.networks.resnet import Downsample, ResnetEncoder, ResnetSizes, Upsample
from jielong.tokenizers.kl import KL

diffusers = pytest.importorskip("diffusers")

CHANNELS, BLOCKS, DIM, GROUPS = (8, 8, 16), 2, 3, 4


def theirs(attention: bool, projections: bool, decoder_attention: bool | None = None, middle_attention: bool = True) -> nn.Module:
    torch.manual_seed(0)
    down, up = ["DownEncoderBlock2D"] * 3, ["UpDecoderBlock2D"] * 3
    if attention:
        down[-1] = "AttnDownEncoderBlock2D"
    if attention if decoder_attention is None else decoder_attention:
        up[0] = "AttnUpDecoderBlock2D"
    model = diffusers.AutoencoderKL(
        block_out_channels=CHANNELS,
        layers_per_block=BLOCKS,
        latent_channels=DIM,
        norm_num_groups=GROUPS,
        down_block_types=down,
        up_block_types=up,
        use_quant_conv=projections,
        use_post_quant_conv=projections,
        mid_block_add_attention=middle_attention,
    )
    for parameter in model.parameters():  # also norms and biases, which begin at one and zero
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def stages(blocks: nn.ModuleList) -> Iterator[nn.Module]:
    """Their modules in the order in which they are applied."""
    for block in blocks:
        attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            yield resnet
            if attention is not None:
                yield attention
        for change in (getattr(block, "downsamplers", None), getattr(block, "upsamplers", None)):
            if change is not None:
                yield change[0].conv


def middle(block: nn.Module) -> list[nn.Module]:
    return [part for part in (block.resnets[0], block.attentions[0], block.resnets[1]) if part is not None]


def give(ours: nn.Module, given: nn.Module) -> None:
    """Weights of one of their modules."""
    state = given.state_dict()
    if isinstance(ours, SpatialAttention):
        names = {"norm": "group_norm", "out": "to_out.0"}
        state = {f"{name}.{kind}": state[f"{names[name]}.{kind}"] for name in names for kind in ("weight", "bias")} | {
            f"qkv.{kind}": torch.cat([state[f"to_{part}.{kind}"] for part in "qkv"]) for kind in ("weight", "bias")
        }
        state = {name: value[..., None, None] if value.ndim == 2 else value for name, value in state.items()}
    elif isinstance(ours, ResidualBlock):
        state = {name.replace("conv_shortcut", "skip"): value for name, value in state.items()}
    (ours.conv if isinstance(ours, Downsample | Upsample) else ours).load_state_dict(state)


def convert(model: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
    """Give our encoder and decoder all of their weights."""
    of_encoder = [model.encoder.conv_in, *stages(model.encoder.down_blocks), *middle(model.encoder.mid_block)]
    of_decoder = [model.decoder.conv_in, *middle(model.decoder.mid_block), *stages(model.decoder.up_blocks)]
    for ours, half, inner in ((encoder, model.encoder, of_encoder), (decoder, model.decoder, of_decoder)):
        for layer, given in zip(ours.layers, inner, strict=True):
            give(layer, given)
        give(ours.norm, half.conv_norm_out)
        give(ours.out, half.conv_out)
    for projection, given in ((encoder.projection, model.quant_conv), (decoder.projection, model.post_quant_conv)):
        if given is not None:
            give(projection, given)


@pytest.mark.parametrize(
    ("attention", "decoder_attention", "projections", "middle_attention"),
    [
        (False, None, True, True),
        (True, None, True, True),
        (False, None, False, True),
        (True, False, True, True),
        (False, True, True, True),
        (False, None, False, False),
    ],
)
@torch.no_grad()
def test_it_is_diffusers_autoencoder_on_the_same_weights(
    attention: bool, decoder_attention: bool | None, projections: bool, middle_attention: bool
) -> None:
    model = theirs(attention, projections, decoder_attention, middle_attention)
    shape = {"channels": CHANNELS, "blocks": BLOCKS, "groups": GROUPS, "projections": projections, "middle_attention": middle_attention}
    settings = Resnet.model_validate({**shape, "attention": attention, "decoder_attention": decoder_attention})
    autoencoder = settings.build(channels=3, size=(16, 24), dim=DIM, encoded=2 * DIM)
    convert(model, autoencoder.encoder, autoencoder.decoder)
    pictures = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = torch.randn(2, DIM, 4, 6, generator=torch.Generator().manual_seed(2))
    assert autoencoder.reduction == (4, 4)
    assert sum(p.numel() for half in (autoencoder.encoder, autoencoder.decoder) for p in half.parameters()) == sum(
        p.numel() for p in model.parameters()
    )
    torch.testing.assert_close(autoencoder.encoder(pictures), model.encode(pictures).latent_dist.parameters, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(autoencoder.decoder(latents), model.decode(latents).sample, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_stage_of_the_decoder_has_as_many_blocks_as_asked_for() -> None:
    """A third block that adds nothing changes nothing: two blocks give the same."""
    three, two = (
        Resnet(channels=CHANNELS, blocks=2, decoder_blocks=blocks, groups=GROUPS).build(channels=3, size=(16, 24), dim=DIM).decoder
        for blocks in (None, 2)
    )
    blocks = [layer for layer in three.layers if not isinstance(layer, SpatialAttention)]
    last = [blocks[place] for place in (5, 9, 13)]  # behind the first layer, two of the middle, three a stage and an upsampling between
    kept = [layer for layer in three.layers if not any(layer is each for each in last)]
    assert all(isinstance(layer, ResidualBlock) for layer in last)
    for layer in last:
        nn.init.zeros_(layer.conv2.weight)
        nn.init.zeros_(layer.conv2.bias)
    for ours, given in zip(two.layers, kept, strict=True):
        ours.load_state_dict(given.state_dict())
    two.norm.load_state_dict(three.norm.state_dict())
    two.out.load_state_dict(three.out.state_dict())
    two.projection.load_state_dict(three.projection.state_dict())
    latents = torch.randn(2, DIM, 4, 6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(two(latents), three(latents))


@torch.no_grad()
def test_the_tokenizer_is_diffusers_on_the_same_weights_with_its_scale_around_it() -> None:
    model = theirs(attention=False, projections=True)
    autoencoder = Resnet(channels=CHANNELS, blocks=BLOCKS, groups=GROUPS)
    tokenizer = KL(autoencoder=autoencoder, dim=DIM, weight=1e-6).build(image_medium(3, (16, 24))).eval()
    convert(model, tokenizer.encoder, tokenizer.decoder)
    tokenizer.shift.copy_(torch.tensor([0.1, -0.2, 0.3]))
    tokenizer.scale.copy_(torch.tensor([0.5, 2.0, 0.18215]))
    pictures = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    posterior = model.encode(pictures).latent_dist
    shift, scale = tokenizer.shift[:, None, None], tokenizer.scale[:, None, None]
    tokens = tokenizer.encode(pictures)
    torch.testing.assert_close(tokens.values, ((posterior.mean - shift) * scale).flatten(2).mT, rtol=1e-4, atol=1e-4)
    mean, log_variance = tokenizer.encode_to_cache(pictures).values.chunk(2, dim=-1)
    assert torch.equal(mean, tokens.values)
    torch.testing.assert_close(log_variance.exp().sqrt(), (posterior.std * scale).flatten(2).mT, rtol=1e-4, atol=1e-5)
    result = tokenizer(pictures)
    torch.testing.assert_close(result.figures["kl_nats"], posterior.kl().mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(result.losses["kl"], 1e-6 * posterior.kl().mean() / (3 * 16 * 24), rtol=1e-4, atol=0)
    latents = torch.randn(2, 24, DIM, generator=torch.Generator().manual_seed(2)) * 0.3
    rebuilt = model.decode((latents / tokenizer.scale + tokenizer.shift).mT.unflatten(2, (4, 6))).sample
    assert (rebuilt.abs() < 1).float().mean() > 0.05, "not everything is clamped"
    torch.testing.assert_close(tokenizer.decode(Tokens(latents, tokenizer.layout)), rebuilt.clamp(-1, 1), rtol=1e-4, atol=1e-4)


def test_the_posterior_is_diffusers_distribution() -> None:
    moments = torch.randn(3, 2 * DIM, 4, 2, generator=torch.Generator().manual_seed(0)) * 20  # some beyond both clamps
    vae = importlib.import_module("diffusers.models.autoencoders.vae")  # an attribute of the package once a test has imported it
    theirs = vae.DiagonalGaussianDistribution(moments)
    ours = DiagonalGaussian.of(moments.permute(0, 2, 3, 1))
    torch.testing.assert_close(ours.kl().sum((1, 2, 3)), theirs.kl())
    torch.testing.assert_close(ours.std(), theirs.std.permute(0, 2, 3, 1))
    normal = torch.randn(ours.mean.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours.sample(normal), theirs.mean.permute(0, 2, 3, 1) + theirs.std.permute(0, 2, 3, 1) * normal)


@torch.no_grad()
def test_a_picture_moved_by_a_token_moves_the_features_by_one() -> None:
    torch.manual_seed(0)
    encoder = ResnetEncoder(3, 4, ResnetSizes((8, 8), 1, 8))
    for module in encoder.modules():
        if isinstance(module, nn.GroupNorm | SpatialAttention):  # these see the whole picture
            module.forward = lambda x: x  # type: ignore[method-assign]
    picture = torch.zeros(1, 3, 80, 80)
    picture[..., 36:44, 36:44] = torch.randn(1, 3, 8, 8)
    moved = torch.roll(picture, (2, 4), (-2, -1))

    def inner(features: Tensor) -> Tensor:
        return features[..., 10:-10, 10:-10]

    torch.testing.assert_close(inner(encoder(moved)), inner(torch.roll(encoder(picture), (1, 2), (-2, -1))))


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"channels \(48, 64\) must be multiples of groups 32"):
        Resnet(channels=(48, 64))
    with pytest.raises(ValueError, match="6 x 8 do not divide into tokens of 4 x 4"):
        Resnet().build(channels=3, size=(6, 8), dim=4)


def test_channels_outside_projections_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValidationError, match="z_channels are those outside the projections, and projections is false"):
        Resnet(projections=False, z_channels=8)
