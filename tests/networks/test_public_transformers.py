"""Networks of joint heads equal public ones on the same weights: DiT, SD3's MMDiT and FLUX.2's transformer of diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models import DiTTransformer2DModel, Flux2Transformer2DModel, SD3Transformer2DModel
from diffusers.models.embeddings import PatchEmbed, get_timestep_embedding
from pydantic import ValidationError
from torch import Tensor, nn

from jielong.backbones.none import NoBackbone
from jielong.core.tokens import Layout
from jielong.networks.conditioning import Conditioning, References
from jielong.networks.denoiser import sinusoid
from jielong.networks.dit import DiT
from jielong.networks.flux2 import Flux2
from jielong.networks.joint import PositionTable, sincos
from jielong.networks.mmdit import MMDiT

B, HEADS, WIDTH, CHANNELS, PATCH, TEXT, LENGTH = 2, 2, 32, 3, 2, 12, 5
TIMES = torch.tensor([[0.137], [0.871]])
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def noisy(model: nn.Module) -> Any:
    """With weights that all matter."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model.eval()


def put(target: nn.Linear, *sources: nn.Linear | nn.Conv2d) -> None:
    """The rows of several maps in one; a convolution over a patch is a map of its values, channel by channel."""
    target.weight.data = torch.cat([source.weight.flatten(1) for source in sources])
    biases = [source.bias for source in sources if source.bias is not None]
    if target.bias is not None:
        target.bias.data = torch.cat(biases) if biases else torch.zeros_like(target.bias)


def patches(pictures: Tensor) -> Tensor:
    """``(B, C, H, W)`` to ``(B, N, C p p)``."""
    return nn.functional.unfold(pictures, PATCH, stride=PATCH).mT


def outputs_of(pictures: Tensor) -> Tensor:
    """``(B, C, H, W)`` to ``(B, N, p p C)``, the order of the transformers' outputs."""
    return patches(pictures).unflatten(-1, (CHANNELS, -1)).transpose(-1, -2).flatten(-2)


def turned(weight: Tensor, heads: int = HEADS) -> Tensor:
    """Rows of queries or keys whose rotary pairs are neighbours, as halves of the head."""
    each = weight.unflatten(0, (heads, -1, 2))  # (heads, pairs, 2, ...)
    return each.transpose(1, 2).flatten(0, 2)


def no_hidden(network: Any) -> None:
    """Nothing is added at single positions: the hidden vector counts by its mean alone."""
    nn.init.zeros_(network.of_hidden.weight)
    nn.init.zeros_(network.of_hidden.bias)


def test_dit() -> None:
    theirs = noisy(
        DiTTransformer2DModel(
            HEADS, WIDTH // HEADS, CHANNELS, num_layers=2, sample_size=8, patch_size=PATCH, num_embeds_ada_norm=10, norm_eps=1e-6
        )
    )
    values = CHANNELS * PATCH**2
    ours: Any = (
        DiT(layers=2, width=WIDTH, heads=HEADS, positions="sincos").build(inputs=values, outputs=values, hidden=WIDTH, axes=2).eval()
    )
    # The embeddings of time and class stand in every layer there; training keeps them equal in the first alone, which all layers use here.
    for block in theirs.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    for block in theirs.transformer_blocks:  # the published model's frequencies; diffusers divides by one less
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    embedder, blocks = theirs.transformer_blocks[0].norm1.emb, theirs.transformer_blocks
    no_hidden(ours)
    put(ours.input, theirs.pos_embed.proj)
    put(ours.of_times[0], embedder.timestep_embedder.linear_1)
    put(ours.of_times[2], embedder.timestep_embedder.linear_2)
    ours.of_whole.weight.data, ours.of_whole.bias.data = torch.eye(WIDTH), torch.zeros(WIDTH)
    put(ours.modulation, *(block.norm1.linear for block in blocks), theirs.proj_out_1)
    put(ours.output, theirs.proj_out_2)
    for mine, block in zip(ours.blocks, blocks, strict=True):
        put(mine.qkv, block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)
        put(mine.project, block.attn1.to_out[0])
        put(mine.up, block.ff.net[0].proj)
        put(mine.down, block.ff.net[2])
    pictures, labels = torch.randn(B, CHANNELS, 8, 8), torch.tensor([3, 7])
    with torch.no_grad():
        wanted = theirs(pictures, timestep=1000 * TIMES[:, 0], class_labels=labels).sample
        hidden = embedder.class_embedder.embedding_table(labels)[:, None].expand(-1, 16, -1)
        found = ours.predict(patches(pictures), TIMES, ours.prepare(hidden, Layout((4, 4)).coordinates()))
    torch.testing.assert_close(found, outputs_of(wanted), **CLOSE)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_mmdit(qk_norm: bool) -> None:
    theirs = noisy(
        SD3Transformer2DModel(
            sample_size=8, patch_size=PATCH, in_channels=CHANNELS, num_layers=3, attention_head_dim=WIDTH // HEADS,
            num_attention_heads=HEADS,
            joint_attention_dim=TEXT, caption_projection_dim=WIDTH, pooled_projection_dim=TEXT, out_channels=CHANNELS, pos_embed_max_size=6,
            qk_norm="rms_norm" if qk_norm else None,
        )
    )  # fmt: skip
    values = CHANNELS * PATCH**2
    settings = MMDiT(layers=3, width=WIDTH, heads=HEADS, positions="sincos", qk_norm=qk_norm)
    ours: Any = settings.build(inputs=values, outputs=values, hidden=WIDTH, axes=2, condition=TEXT).eval()
    pooled, time, blocks, last = (
        theirs.time_text_embed.text_embedder,
        theirs.time_text_embed.timestep_embedder,
        theirs.transformer_blocks,
        -1,
    )
    no_hidden(ours)
    put(ours.input, theirs.pos_embed.proj)
    put(ours.of_times[0], time.linear_1)
    put(ours.of_times[2], time.linear_2)
    put(ours.of_whole, pooled.linear_2)  # the first of two maps of the pooled text is the backbone's
    put(ours.of_text, theirs.context_embedder)
    put(ours.modulation, *(block.norm1.linear for block in blocks), theirs.norm_out.linear)
    put(ours.text_modulation, *(block.norm1_context.linear for block in blocks))
    for linear in (ours.modulation, ours.text_modulation):  # a norm of two vectors there has the scale first
        for parameter in (linear.weight, linear.bias):
            scale, shift = parameter.data[-2 * WIDTH :].chunk(2)
            parameter.data[-2 * WIDTH :] = torch.cat([shift, scale])
    put(ours.output, theirs.proj_out)
    for mine, block in zip(ours.blocks, blocks, strict=True):
        attention, only = block.attn, mine is ours.blocks[last]
        queries = [] if only else [attention.add_q_proj]
        put(mine.picture.qkv, attention.to_q, attention.to_k, attention.to_v)
        put(mine.text.qkv, *queries, attention.add_k_proj, attention.add_v_proj)
        streams = [(mine.picture, attention.to_out[0], block.ff)] + ([] if only else [(mine.text, attention.to_add_out, block.ff_context)])
        for stream, project, feed_forward in streams:
            put(stream.project, project)
            put(stream.up, feed_forward.net[0].proj)
            put(stream.down, feed_forward.net[2])
        if qk_norm:
            mine.picture.query_norm.weight.data, mine.picture.key_norm.weight.data = attention.norm_q.weight, attention.norm_k.weight
            mine.text.key_norm.weight.data = attention.norm_added_k.weight
            if not only:
                mine.text.query_norm.weight.data = attention.norm_added_q.weight
    pictures, states, whole = torch.randn(B, CHANNELS, 8, 8), torch.randn(B, LENGTH, TEXT), torch.randn(B, TEXT)
    # The table is of 6 x 6 places at distances of 4 / 6, and a grid of 4 x 4 is its centre.
    coords = (Layout((4, 4)).coordinates() + 1) * (4 / 6)
    condition = Conditioning(states, torch.ones(B, LENGTH, dtype=torch.bool), whole)
    with torch.no_grad():
        wanted = theirs(pictures, states, whole, 1000 * TIMES[:, 0]).sample
        hidden = nn.functional.silu(pooled.linear_1(whole))[:, None].expand(-1, 16, -1)
        found = ours.predict(patches(pictures), TIMES, ours.prepare(hidden, coords, None, condition))
    torch.testing.assert_close(found, outputs_of(wanted), **CLOSE)


@pytest.mark.parametrize("references", [0, 6])
def test_flux2(references: int) -> None:
    theirs = noisy(
        Flux2Transformer2DModel(
            in_channels=CHANNELS, num_layers=2, num_single_layers=2, attention_head_dim=WIDTH // HEADS, num_attention_heads=HEADS,
            joint_attention_dim=CHANNELS, mlp_ratio=2.0, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
        )
    )  # fmt: skip
    settings = Flux2(layers=2, single_layers=2, width=WIDTH, heads=HEADS, ratio=2.0)
    ours: Any = settings.build(inputs=CHANNELS, outputs=CHANNELS, hidden=WIDTH, axes=2, condition=CHANNELS).eval()
    time = theirs.time_guidance_embed.timestep_embedder
    no_hidden(ours)
    nn.init.zeros_(ours.of_whole.weight)
    for mine, source in ((ours.input, theirs.x_embedder), (ours.of_text, theirs.context_embedder), (ours.of_reference, theirs.x_embedder),
                         (ours.of_times[0], time.linear_1), (ours.of_times[2], time.linear_2), (ours.output, theirs.proj_out)):  # fmt: skip
        put(mine, source)
    put(ours.modulation, theirs.double_stream_modulation_img.linear, theirs.single_stream_modulation.linear, theirs.norm_out.linear)
    scale, shift = ours.modulation.weight.data[-2 * WIDTH :].chunk(2)
    ours.modulation.weight.data[-2 * WIDTH :] = torch.cat([shift, scale])
    put(ours.text_modulation, theirs.double_stream_modulation_txt.linear)
    for mine, block in zip(ours.blocks, theirs.transformer_blocks, strict=True):
        attention = block.attn
        maps = [(attention.to_q, attention.to_k, attention.to_v), (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)]
        norms = [(attention.norm_q, attention.norm_k), (attention.norm_added_q, attention.norm_added_k)]
        outs = [(attention.to_out[0], block.ff), (attention.to_add_out, block.ff_context)]
        for stream, (q, k, v), (query_norm, key_norm), (project, feed_forward) in zip(
            (mine.picture, mine.text), maps, norms, outs, strict=True
        ):
            stream.qkv.weight.data = torch.cat([turned(q.weight), turned(k.weight), v.weight])
            stream.query_norm.weight.data, stream.key_norm.weight.data = turned(query_norm.weight, 1), turned(key_norm.weight, 1)
            put(stream.project, project)
            put(stream.up, feed_forward.linear_in)
            put(stream.down, feed_forward.linear_out)
    for mine, block in zip(ours.single_blocks, theirs.single_transformer_blocks, strict=True):
        q, k, v, rest = block.attn.to_qkv_mlp_proj.weight.split([WIDTH, WIDTH, WIDTH, 4 * WIDTH])
        mine.up.weight.data = torch.cat([turned(q), turned(k), v, rest])
        mine.query_norm.weight.data, mine.key_norm.weight.data = turned(block.attn.norm_q.weight, 1), turned(block.attn.norm_k.weight, 1)
        put(mine.down, block.attn.to_out)
    tokens, text, pictures = torch.randn(B, 12, CHANNELS), torch.randn(B, LENGTH, CHANNELS), torch.randn(B, references, CHANNELS)
    coords, others = Layout((3, 4)).coordinates(), Layout((2, 3)).coordinates()[:references]
    places, at = nn.functional.pad(coords, (1, 1)), nn.functional.pad(others, (1, 0), value=10)
    words = nn.functional.pad(torch.arange(LENGTH)[:, None], (3, 0))
    of_pictures = References(pictures, torch.ones(B, references, dtype=torch.bool), at)
    condition = Conditioning(text, torch.ones(B, LENGTH, dtype=torch.bool), text[:, 0], references=of_pictures)
    with torch.no_grad():
        sequence, where = torch.cat([tokens, pictures], 1), torch.cat([places, nn.functional.pad(at, (0, 1))])
        wanted = theirs(sequence, text, TIMES[:, 0], where, words).sample[:, :12]
        prepared = ours.prepare(torch.zeros(B, 12, WIDTH), coords, None, condition)
        found = ours.predict(tokens, TIMES, prepared)
        torch.testing.assert_close(found, wanted, **CLOSE)


def test_the_frequencies_of_times_are_those_of_diffusers_with_its_shift() -> None:
    times = torch.linspace(0, 1, 7)
    for shift in (0, 1):
        wanted = get_timestep_embedding(1000 * times, 256, flip_sin_to_cos=True, downscale_freq_shift=shift)
        torch.testing.assert_close(sinusoid(times, freq_shift=shift), wanted, rtol=1e-4, atol=1e-4)


def test_a_grid_reads_the_centre_of_a_table() -> None:
    theirs = PatchEmbed(12, 12, 2, CHANNELS, WIDTH, pos_embed_max_size=9)
    ours = PositionTable(9, WIDTH)
    ours.table.copy_(theirs.pos_embed.unflatten(1, (9, 9))[0])
    for grid in ((6, 6), (9, 4), (1, 5)):
        wanted = theirs.cropped_pos_embed(2 * grid[0], 2 * grid[1])[0]
        assert torch.equal(ours(Layout(grid).coordinates()), wanted)
    with pytest.raises(ValueError, match="a grid of 10 x 2 positions is larger than the network's table of 9 x 9"):
        ours(Layout((10, 2)).coordinates())
    # Without a published table it is sines and cosines of whole numbers.
    torch.testing.assert_close(PositionTable(9, WIDTH).table[4, 7], sincos(torch.tensor([[4, 7]]), WIDTH)[0])


@pytest.mark.parametrize("settings", [DiT(layers=2, width=WIDTH, heads=HEADS), MMDiT(layers=2, width=WIDTH, heads=HEADS)])
@torch.no_grad()
def test_a_mean_alone_is_one_projected_by_the_identity(settings: DiT | MMDiT) -> None:
    sizes: dict[str, Any] = {"inputs": CHANNELS, "outputs": CHANNELS, "hidden": WIDTH, "axes": 2, "condition": TEXT}
    each, mean = settings.build(**sizes), settings.model_copy(update={"hidden_vectors": "mean"}).build(**sizes)
    noisy(each)
    state = {name: value for name, value in each.state_dict().items() if not name.startswith(("of_hidden", "of_whole"))}
    mean.load_state_dict(state)
    no_hidden(each)
    each.of_whole.weight.copy_(torch.eye(WIDTH))  # type: ignore[union-attr,operator]
    nn.init.zeros_(each.of_whole.bias)  # type: ignore[union-attr,arg-type]
    tokens, hidden, states = torch.randn(B, 6, CHANNELS), torch.randn(B, 6, WIDTH), torch.randn(B, LENGTH, TEXT)
    condition, coords = Conditioning(states, torch.ones(B, LENGTH, dtype=torch.bool), states[:, 0]), Layout((2, 3)).coordinates()
    found, wanted = (net.predict(tokens, TIMES, net.prepare(hidden, coords, None, condition)) for net in (mean, each))  # type: ignore[operator]
    torch.testing.assert_close(found, wanted)


def test_settings_that_contradict_are_refused() -> None:
    with pytest.raises(ValidationError, match="table is the number of rows and columns for positions: table"):
        DiT(positions="table")
    with pytest.raises(ValidationError, match="give both or neither"):
        MMDiT(table=9)
    with pytest.raises(ValidationError, match="hidden_vectors: mean leaves their mean"):
        DiT(hidden_vectors="mean", modulation="position")
    sizes: dict[str, int] = {"inputs": 2, "outputs": 2, "axes": 2}
    with pytest.raises(ValueError, match="set the backbone's width to 256"):
        DiT(hidden_vectors="mean").build(hidden=4, **sizes)
    with pytest.raises(ValueError, match="positions: table is of rows and columns"):
        DiT(positions="table", table=4).build(hidden=4, inputs=2, outputs=2, axes=1)
    with pytest.raises(ValueError, match="set the condition's width to 8, or take linear"):
        NoBackbone(width=8, pooled="as_is").build(Layout((2, 2), 3), 6)
