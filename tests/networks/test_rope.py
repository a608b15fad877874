from __future__ import annotations

import pytest
import torch

from jielong.networks.rope import Rotary

CPU = torch.device("cpu")


@pytest.mark.parametrize(("axes", "head_width"), [(1, 8), (2, 16), (2, 10), (3, 12), (3, 64)])
def test_scores_depend_on_coordinate_differences_only(axes: int, head_width: int) -> None:
    torch.manual_seed(0)
    rotary = Rotary(head_width, axes)
    q, k = torch.randn(7, head_width), torch.randn(7, head_width)
    first, other = torch.randint(0, 9, (7, axes)), torch.randint(0, 9, (7, axes))

    def scores(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (rotary(a, CPU, torch.float32)(q) * rotary(b, CPU, torch.float32)(k)).sum(-1)

    for axis in range(axes):
        step = torch.zeros(axes, dtype=torch.long)
        step[axis] = 5
        torch.testing.assert_close(scores(first + step, other + step), scores(first, other), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(scores(first + step, other), scores(first, other), atol=1e-3)


def test_a_pair_turns_by_the_angle_of_its_axis() -> None:
    rotary = Rotary(8, 2, base=100.0)  # two pairs an axis: frequencies 1 and 1/10
    turned = rotary(torch.tensor([[3, 5]]), CPU, torch.float64)(torch.eye(8, dtype=torch.float64)[:4, None]).squeeze(1)
    angle = torch.tensor([3.0, 0.3, 5.0, 0.5])
    expected = torch.cat((angle.cos().diag(), angle.sin().diag()), -1).double()
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-6)


def test_a_prefix_is_not_turned_and_lengths_stay() -> None:
    rotation = Rotary(8, 1)(torch.tensor([[2], [6]]), CPU, torch.float32, prefix=3)
    x = torch.randn(5, 8)
    assert torch.equal(rotation(x)[:3], x[:3])
    torch.testing.assert_close(rotation(x).norm(dim=-1), x.norm(dim=-1))


def test_turning_a_projection_is_turning_its_parts_forward_and_backward() -> None:
    torch.manual_seed(0)
    rotation = Rotary(8, 2)(torch.randint(0, 9, (5, 2)), CPU, torch.float64)
    qkv = torch.randn(2, 5, 3, 3, 8, dtype=torch.float64, requires_grad=True)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    expected = rotation(q), rotation(k), v
    torch.testing.assert_close(rotation.of_projection(qkv), expected)
    few = torch.randn(1, 5, 3, 2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation.of_projection, few)
    assert torch.autograd.gradgradcheck(rotation.of_projection, few)
    torch.testing.assert_close(rotation.of_projection(qkv.float()), tuple(x.float() for x in expected))  # another dtype than the tables'


def test_complex_pairs_rotate_equally() -> None:
    rotation = Rotary(8, 1)(torch.tensor([[2], [6]]), CPU, torch.float32)
    x = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    pairs = torch.complex(x[..., :4], x[..., 4:]) * rotation.pairs
    torch.testing.assert_close(torch.cat((pairs.real, pairs.imag), -1), rotation(x))
    assert (rotation.pairs_of_keys_values[1] == 1).all()


def test_tables_made_in_inference_mode_serve_training() -> None:
    rotary = Rotary(8, 1)
    coordinates = torch.tensor([[4]])
    with torch.inference_mode():
        first = rotary(coordinates, CPU, torch.float32)
    again = rotary(coordinates, CPU, torch.float32)
    assert again is first
    again(torch.randn(1, 8, requires_grad=True)).sum().backward()


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jielong.networks.rope.CACHED_POSITIONS", 10)
    rotary = Rotary(8, 1)
    for start in range(50):
        rotary(torch.arange(start, start + 3)[:, None], CPU, torch.float32)
    assert len(rotary._tables) == 3
