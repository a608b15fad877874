"""The U-Net of joint heads: equal to diffusers' on the same weights, zero at first, and for grids of any size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models import UNet2DConditionModel, UNet2DModel
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from jielong.config.registry import parse_part
from jielong.core.tokens import Layout
from jielong.networks.conditioning import Conditioning
from jielong.networks.unet import UNet, _Attention

B, C, D = 2, 3, 6
SMALL = UNet(channels=(8, 16), blocks=2, attention=1, head_width=4, groups=4)


def built(noisy: bool = True, axes: int = 2) -> Any:
    torch.manual_seed(0)
    network = SMALL.build(inputs=C, outputs=C, hidden=D, axes=axes).double().eval()
    for parameter in network.parameters() if noisy else ():
        nn.init.normal_(parameter, std=0.2)
    return network


def given(rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    n = rows * columns
    hidden = torch.randn(B, n, D).double()
    return torch.randn(B, n, C).double(), torch.rand(B, 1).double(), hidden, Layout((rows, columns), C).coordinates()


def copy_residual(mine: Any, block: Any, attention: Any) -> None:
    pairs = [(mine.norm1, block.norm1), (mine.conv1, block.conv1), (mine.of_y, block.time_emb_proj), (mine.norm2, block.norm2)]
    pairs.append((mine.conv2, block.conv2))
    if block.conv_shortcut is not None:
        pairs.append((mine.skip, block.conv_shortcut))
    if attention is not None:
        pairs += [(mine.attention.norm, attention.group_norm), (mine.attention.out, attention.to_out[0])]
        parts = [attention.to_q, attention.to_k, attention.to_v]
        mine.attention.qkv.weight.data = torch.cat([part.weight for part in parts])
        mine.attention.qkv.bias.data = torch.cat([part.bias for part in parts])
    for target, source in pairs:
        target.load_state_dict(source.state_dict())


STATES = 16  # as many as the channels of the middle, on which diffusers makes its norm of the states
CROSS = SMALL.model_copy(update={"condition": "cross"})


def with_text(settings: UNet = CROSS) -> tuple[Any, Conditioning]:
    """A network that attends to the states of a condition, and states of two lengths."""
    torch.manual_seed(0)
    network = settings.build(inputs=C, outputs=C, hidden=D, axes=2, condition=STATES).double().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    states = torch.randn(B, 4, STATES, generator=torch.Generator().manual_seed(3)).double()
    return network, Conditioning(states, torch.arange(4) < torch.tensor([[4], [2]]), states.mean(1))


def test_attention_to_a_condition_equals_that_of_diffusers() -> None:
    """The whole of a ``UNet2DConditionModel`` whose middle attends to positions and states at once."""
    torch.manual_seed(0)
    theirs = UNet2DConditionModel(
        sample_size=8, in_channels=C, out_channels=C, block_out_channels=(8, 16), layers_per_block=2, norm_num_groups=4,
        attention_head_dim=4, cross_attention_dim=STATES, mid_block_type="UNetMidBlock2DSimpleCrossAttn", cross_attention_norm="layer_norm",
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    theirs.time_proj, theirs.time_embedding = Timesteps(256, True, 0), TimestepEmbedding(256, 32)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    theirs = theirs.double().eval()
    ours, text = with_text(CROSS.model_copy(update={"attention": 0}))
    copy_all(ours, theirs)
    attention = theirs.mid_block.attentions[0]
    norm, linear = ours.middle[0].attention.text
    norm.load_state_dict(attention.norm_cross.state_dict())
    linear.weight.data = torch.cat([attention.add_k_proj.weight, attention.add_v_proj.weight])
    linear.bias.data = torch.cat([attention.add_k_proj.bias, attention.add_v_proj.bias])
    x, times, hidden, coords = given(8, 8)
    with torch.no_grad():
        maps = x.mT.unflatten(2, (8, 8))
        wanted = theirs(maps, 1000 * times[:, 0], text.states, encoder_attention_mask=text.mask).sample.flatten(2).mT
        found = ours.predict(x, times, ours.prepare(hidden, coords, None, text))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def copy_all(ours: Any, theirs: Any) -> None:
    """The weights of a network of diffusers, but those by which an attention reads a condition; hidden vectors are not read."""
    for linear in (ours.of_hidden, ours.of_positions):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    for mine, source in ((ours.input, theirs.conv_in), (ours.last_norm, theirs.conv_norm_out), (ours.output, theirs.conv_out),
                         (ours.of_times[0], theirs.time_embedding.linear_1), (ours.of_times[2], theirs.time_embedding.linear_2),
                         (ours.shrink[0], theirs.down_blocks[0].downsamplers[0].conv),
                         (ours.grow[0], theirs.up_blocks[0].upsamplers[0].conv)):  # fmt: skip
        mine.load_state_dict(source.state_dict())
    for mine, stages in ((ours.down, theirs.down_blocks), (ours.up, theirs.up_blocks)):
        blocks = [(block, index, stage) for stage in stages for index, block in enumerate(stage.resnets)]
        for part, (block, index, stage) in zip(mine, blocks, strict=True):
            copy_residual(part, block, stage.attentions[index] if hasattr(stage, "attentions") else None)
    copy_residual(ours.middle[0], theirs.mid_block.resnets[0], theirs.mid_block.attentions[0])
    copy_residual(ours.middle[1], theirs.mid_block.resnets[1], None)


def test_it_equals_that_of_diffusers() -> None:
    torch.manual_seed(0)
    theirs = UNet2DModel(
        sample_size=8, in_channels=C, out_channels=C, block_out_channels=(8, 16), layers_per_block=2, norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    theirs.time_proj, theirs.time_embedding = Timesteps(256, True, 0), TimestepEmbedding(256, 32)  # our number of frequencies
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    theirs, ours = theirs.double().eval(), built()
    copy_all(ours, theirs)
    x, times, hidden, coords = given(8, 8)
    with torch.no_grad():
        wanted = theirs(x.mT.unflatten(2, (8, 8)), 1000 * times[:, 0]).sample.flatten(2).mT
        found = ours.predict(x, times, ours.prepare(hidden, coords))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_an_untrained_network_gives_zero_and_settings_survive_their_own_dump() -> None:
    x, times, hidden, coords = given(4, 4)
    network = built(noisy=False)
    assert not network.predict(x, times, network.prepare(hidden, coords)).any()
    assert parse_part("network", SMALL.model_dump(mode="json")) == SMALL


@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (1, 7)])
def test_any_grid_is_drawn_and_every_token_and_hidden_vector_matters(grid: tuple[int, int]) -> None:
    network, (x, times, hidden, coords) = built(), given(*grid)
    before = network.predict(x, times, network.prepare(hidden, coords))
    assert before.shape == x.shape
    for changed in (x, hidden):
        changed[0, -1] += 0.1
        after = network.predict(x, times, network.prepare(hidden, coords))
        assert float((after[0] - before[0]).abs().amin(-1).min().detach()) > 1e-9
        torch.testing.assert_close(after[1], before[1], rtol=0, atol=0)
        changed[0, -1] -= 0.1


def test_items_repeat_and_are_picked_from_and_forward_derivatives_are_exact() -> None:
    network, (x, times, hidden, coords) = built(), given(4, 4)
    prepared = network.prepare(hidden, coords)
    whole = network.predict(x, times, prepared)
    torch.testing.assert_close(network.predict(x.repeat(2, 1, 1), times.repeat(2, 1), prepared.repeat(2)), whole.repeat(2, 1, 1))
    rows = torch.tensor([1, 0])
    torch.testing.assert_close(network.predict(x[rows], times[rows], prepared.rows(rows)), whole[rows])
    along, step = torch.randn_like(x), 1e-6

    def ask(x: Tensor, times: Tensor) -> Tensor:
        found: Tensor = network.predict(x, 0.001 * times, prepared)
        return found

    _, slope = torch.func.jvp(ask, (x, times), (along, torch.ones_like(times)))
    ends = [ask(x + sign * step * along, times + sign * step) for sign in (1, -1)]
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-5)


def test_attention_reads_a_text_as_more_keys_and_values() -> None:
    """Against a softmax over both written out, with the padding of the texts left out."""
    torch.manual_seed(0)
    attention = _Attention(SMALL, 8, 5).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    x, states = torch.randn(B, 8, 2, 3).double(), torch.randn(B, 4, 5).double()
    seen = torch.tensor([[True] * 4, [True, True, False, False]])
    found = attention(x, attention.keys_values(states), seen)
    for item, length in enumerate((4, 2)):
        q, k, v = attention.qkv(attention.norm(x)[item].flatten(1).T).chunk(3, -1)
        more = attention.text(states[item, :length]).chunk(2, -1)
        k, v = torch.cat([k, more[0]]), torch.cat([v, more[1]])
        mixed = [torch.softmax(q[:, at] @ k[:, at].T / 2, -1) @ v[:, at] for at in (slice(0, 4), slice(4, 8))]  # heads of width 4
        wanted = x[item] + attention.out(torch.cat(mixed, -1)).T.unflatten(1, (2, 3))
        torch.testing.assert_close(found[item], wanted)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="rows and columns"):
        built(axes=1)
    with pytest.raises(ValueError, match="groups 32 must divide"):
        UNet(channels=(24,), head_width=8)
    _, _, hidden, coords = given(2, 3)
    for wrong in (coords.flip(0), coords[:5]):
        with pytest.raises(ValueError, match="whole grids"):
            built().prepare(hidden[:, : len(wrong)], wrong)
    with pytest.raises(ValueError, match="whole grids"):
        built().prepare(hidden, coords, torch.ones(B, 6, dtype=torch.bool))
