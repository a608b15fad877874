"""The mixture head against its definition, and against the softmax head that it contains."""

import math

import torch
from mixture import Mixture, MixtureHead

from jielong.config import recipe
from jielong.core.tokens import Layout
from jielong.heads.softmax import SoftmaxHead

LAYOUT = Layout(grid=(2, 3), channels=2, vocabulary=40)
WIDTH = 6


def head(components: int) -> MixtureHead:
    torch.manual_seed(0)
    mixture = Mixture(components=components).build(WIDTH, LAYOUT)
    torch.nn.init.normal_(mixture.logits.weight)
    return mixture


def test_an_untrained_head_is_uniform():
    loss = Mixture(components=3).build(WIDTH, LAYOUT).loss(torch.randn(5, WIDTH), torch.randint(40, (5, 2)))
    torch.testing.assert_close(loss, torch.full((5,), math.log(40)))


def test_probabilities_are_the_gated_sum():
    mixture, hidden = head(3), torch.randn(7, WIDTH)
    weights, biases = mixture.contexts.weight.split(WIDTH), mixture.contexts.bias.split(WIDTH)
    each = [SoftmaxHead.scores(mixture, torch.tanh(hidden @ w.T + b)).softmax(-1) for w, b in zip(weights, biases, strict=True)]
    total = sum(gate[:, None, None] * p for gate, p in zip(mixture.gate(hidden).softmax(-1).T, each, strict=True))
    torch.testing.assert_close(mixture.scores(hidden).exp(), total)
    torch.testing.assert_close(total.sum(-1), torch.ones(7, 2))


def test_it_fits_what_one_softmax_cannot():
    hidden = torch.randn(200, WIDTH, dtype=torch.float64)

    def rank(model: SoftmaxHead) -> int:
        scores = model.double().scores(hidden)[:, 0].double()
        return int(torch.linalg.matrix_rank(scores - scores.mean(-1, keepdim=True), rtol=1e-6))

    single = SoftmaxHead(WIDTH, LAYOUT)
    torch.nn.init.normal_(single.logits.weight)
    assert rank(single) == WIDTH
    assert rank(head(3)) > WIDTH


def test_a_recipe_names_it():
    chosen = recipe.load("maskgit-tiny", ["head.mixture.components=2"])
    assert chosen.head.build(WIDTH, LAYOUT).components == 2
    assert "mixture" in chosen.to_yaml()
