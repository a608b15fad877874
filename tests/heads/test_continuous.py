"""What iterative heads share, on a network and a head that are small enough to be written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.continuous import GuidedDenoiser, IterativeHead, Predict
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.softmax import SoftmaxHead
from jielong.networks.denoiser import MLP, Denoiser

LAYOUT = Layout((2, 3), channels=4)
D = 5


class Counting(Denoiser):
    """``x + t z``, which counts rows prepared and rows predicted."""

    def __init__(self) -> None:
        super().__init__(4, D, 0)
        self.times_in, self.prepared_rows, self.predicted_rows = 1, [], []  # type: ignore[var-annotated]

    def prepare(self, hidden: Tensor) -> Tensor:
        self.prepared_rows.append(len(hidden))
        return hidden[:, :4]

    def predict(self, x: Tensor, times: Tensor | None, prepared: Tensor) -> Tensor:
        assert times is not None
        self.predicted_rows.append(len(x))
        return x + times * prepared


class Toy(IterativeHead):
    """The loss is the time drawn plus what the network says of it; a draw moves by half the prediction at each step."""

    def __init__(self, draws: int = 1) -> None:
        super().__init__(Counting(), LAYOUT, FlowMatching(steps=3, diffusion_batch_mul=draws))

    def loss_of_copies(self, targets: Tensor, draws: Draws, predict: Predict) -> Tensor:
        self.times = draws.uniform(1)
        return (predict(targets, self.times) - targets).mean(1)

    def draw(self, evaluate: GuidedDenoiser, rng: PerSampleRNG, steps: int, temperature: float, sampler: str = "") -> Tensor:
        x = self.initial(evaluate, rng)
        for step in range(steps):
            x = x - evaluate(x, step / steps) / 2
        return x


def test_copies_of_a_token_share_only_backbone_and_projection() -> None:
    head = Toy(draws=7)
    hidden, targets = torch.randn(6, D, requires_grad=True), torch.randn(6, 4)
    loss = head.loss(hidden, targets)
    assert head.network.prepared_rows == [6]
    assert head.network.predicted_rows == [42]
    assert len(head.times.unique()) == 42
    # Copy d of token m is row 6 d + m; the loss of m is the mean over d of t times the mean of its z.
    expected = head.times.view(7, 6).mean(0) * hidden[:, :4].mean(1)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad[:, 0], head.times.view(7, 6).mean(0) / 4)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0])
def test_guidance_is_one_call_of_both_halves(guidance: float) -> None:
    network, hidden, null = Counting(), torch.randn(2, 3, D), torch.randn(2, 3, D)
    evaluate = GuidedDenoiser(network, hidden, HeadContext(null, guidance))
    x = torch.randn(2, 3, 4)
    found = evaluate(x, 0.25)
    assert (network.prepared_rows, network.predicted_rows) == ([12], [12])
    one, other = (GuidedDenoiser(network, each)(x, 0.25) for each in (hidden, null))
    torch.testing.assert_close(found, other + guidance * (one - other))
    halves = evaluate.branches(x, 0.25)
    assert halves[1] is not None
    torch.testing.assert_close(torch.stack([halves[0], halves[1]]), torch.stack([one, other]))


def test_without_anything_to_guide_there_is_one_half() -> None:
    network, hidden = Counting(), torch.randn(2, 3, D)
    x = torch.randn(2, 3, 4)
    for null, guidance in ((None, 1.0), (None, 4.0), (torch.randn(2, 3, D), 1.0)):
        evaluate = GuidedDenoiser(network, hidden, HeadContext(null, guidance))
        assert torch.equal(evaluate(x, 0.5), x + 0.5 * hidden[..., :4])
        assert evaluate.branches(x, 0.5)[1] is None
    assert network.predicted_rows == [6] * 6


def test_a_token_does_not_depend_on_the_batch_and_noise_not_on_guidance() -> None:
    head, hidden, null = Toy(), torch.randn(4, 6, D), torch.randn(4, 6, D)
    together = head.sample(hidden, PerSampleRNG(5, range(4)), SamplingConfig(), HeadContext(null, 2.0)).values
    alone = head.sample(hidden[2:3], PerSampleRNG(5, [2]), SamplingConfig(), HeadContext(null[2:3], 2.0)).values
    torch.testing.assert_close(together[2:3], alone)
    # With nothing to tell apart, the guided draw is the unguided one: both began from the same noise.
    torch.testing.assert_close(
        head.sample(hidden, PerSampleRNG(5, range(4)), SamplingConfig(), HeadContext(hidden, 2.0)).values,
        head.sample(hidden, PerSampleRNG(5, range(4)), SamplingConfig()).values,
    )


def test_evaluations_follow_the_request_and_the_known_fraction() -> None:
    head, hidden = Toy(), torch.randn(1, 6, D)

    def evaluations(sampling: SamplingConfig, progress: float) -> int:
        head.network.predicted_rows.clear()
        head.sample(hidden, PerSampleRNG(0, [0]), sampling, HeadContext(known_fraction=progress))
        return len(head.network.predicted_rows)

    assert evaluations(SamplingConfig(), 0.9) == 3
    assert evaluations(SamplingConfig(num_inference_steps=8), 0.9) == 8
    assert [evaluations(SamplingConfig(num_inference_steps=10, final_inference_steps=2), share) for share in (0, 0.5, 1)] == [10, 6, 2]


def test_what_means_nothing_is_refused() -> None:
    head, hidden = Toy(), torch.randn(1, 6, D)
    for sampling in (SamplingConfig(top_k=3), SamplingConfig(top_p=0.9)):
        with pytest.raises(ValueError, match="draws numbers, not codes, so top_k and top_p do not apply"):
            head.sample(hidden, PerSampleRNG(0, [0]), sampling)
    codes = SoftmaxHead(D, Layout((2, 3), vocabulary=8))
    for sampling in (SamplingConfig(num_inference_steps=3), SamplingConfig(final_inference_steps=3)):
        with pytest.raises(
            ValueError,
            match="SoftmaxHead draws a token in one evaluation; num_inference_steps and final_inference_steps are for iterative",
        ):
            codes.check_sampling(sampling)
    codes.check_sampling(SamplingConfig(top_k=3, top_p=0.5, temperature=0))
    with pytest.raises(ValueError, match="needs continuous tokens; this tokenizer's are codes"):
        FlowMatching(network=MLP()).build(D, Layout((2,), vocabulary=4))
