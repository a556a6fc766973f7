"""The learning rate at the paper's marks, and who is decayed."""

from itertools import pairwise

import pytest
import torch

from gato.learners.gato import GatoLearner
from gato.train.optim import OptimConfig, learning_rate, make_optimizer

PAPER = OptimConfig(learning_rate=1e-4)
MILLION = 1_000_000


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 1e-7), (7_500, (1e-7 + 1e-4) / 2), (15_000, 1e-4), (507_500, 0.55e-4), (MILLION, 1e-5), (2 * MILLION, 1e-5)],
)
def test_the_rate_at_the_marks_of_the_paper(step, rate):
    assert learning_rate(PAPER, step, MILLION) == pytest.approx(rate, rel=1e-12)


def test_the_rate_rises_to_its_maximum_and_only_falls_after():
    rates = [learning_rate(PAPER, s, MILLION) for s in range(0, MILLION + 1, 1000)]
    assert all(a < b for a, b in pairwise(rates[:16]))
    assert all(a > b for a, b in pairwise(rates[15:]))


def test_without_warm_up_training_starts_at_the_maximum():
    config = OptimConfig(warmup_steps=0)
    assert learning_rate(config, 0, 100) == config.learning_rate
    assert learning_rate(config, 100, 100) == pytest.approx(config.learning_rate / 10)


def test_a_run_shorter_than_its_warm_up_still_has_rates():
    assert 0 < learning_rate(PAPER, 10, 10) < PAPER.learning_rate


def test_the_optimizer_is_the_papers():
    optimizer = make_optimizer(PAPER, [{"params": [torch.nn.Parameter(torch.zeros(2, 2))], "weight_decay": 0.1}])
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.9, 0.95), 1e-8)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_every_parameter_is_in_one_group_and_only_matrices_are_decayed(tiny):
    decayed, kept = GatoLearner(tiny).parameter_groups(0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    names = {id(p): n for n, p in tiny.named_parameters()}
    assert sorted(names[id(p)] for g in (decayed, kept) for p in g["params"]) == sorted(names.values())
    assert all("norm" in names[id(p)] or names[id(p)].endswith("bias") or p.ndim == 1 for p in kept["params"])
    assert not any("norm" in names[id(p)] or names[id(p)].endswith("bias") for p in decayed["params"])


def test_decay_without_a_gradient_shrinks_matrices_and_leaves_norms(make_gato):
    model = make_gato(initializer_range=0.3)
    optimizer = make_optimizer(OptimConfig(learning_rate=0.1), GatoLearner(model).parameter_groups(0.5))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    q, norm = "transformer.layers.0.attention.q_proj.weight", "transformer.norm.weight"
    after = dict(model.named_parameters())
    torch.testing.assert_close(after[q], before[q] * 0.95, atol=1e-9, rtol=1e-9)  # 1 - 0.1 * 0.5
    assert torch.equal(after[norm], before[norm])
