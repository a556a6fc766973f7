"""The learning rate at the paper's marks, and who is decayed."""

from itertools import pairwise

import pytest
import torch

from gato.layers import transformer
from gato.learners.gato import GatoLearner
from gato.train import recipe
from gato.train.muon import Muon
from gato.train.optim import OptimConfig, learning_rate, make_optimizer, seconds_per_update

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
    hidden, tables, kept = GatoLearner(tiny).parameter_groups(0.1)
    assert (hidden["weight_decay"], tables["weight_decay"], kept["weight_decay"]) == (0.1, 0.1, 0.0)
    decayed = {"params": hidden["params"] + tables["params"]}
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


def test_muon_updates_the_matrices_of_the_layers_and_adamw_the_rest(tiny):
    optimizer = make_optimizer(OptimConfig(muon=3.0), GatoLearner(tiny).parameter_groups(0.1))
    for parameter in tiny.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    names = {p: n for n, p in tiny.named_parameters()}
    by_muon = {names[p] for p, state in optimizer.state.items() if "momentum_buffer" in state}
    assert by_muon == {n for n, p in tiny.named_parameters() if ".layers." in n and p.ndim == 2 and not n.endswith("bias")}
    assert {names[p] for p, state in optimizer.state.items() if "exp_avg" in state} == set(names.values()) - by_muon


def test_an_update_of_muon_is_as_large_as_one_of_adamw_at_equal_rates():
    moved = []
    for muon in (None, 1.0):
        matrix = torch.nn.Parameter(torch.zeros(64, 64))
        matrix.grad = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        groups = [{"params": [matrix], "weight_decay": 0.0, "hidden": True}, {"params": [torch.nn.Parameter(torch.zeros(1))]}]
        make_optimizer(OptimConfig(learning_rate=0.01, muon=muon), groups).step()
        moved.append(matrix.detach().square().mean().sqrt().item())
    assert moved[0] == pytest.approx(0.01, rel=1e-3)  # AdamW's first update is the sign of the gradient
    assert moved[1] == pytest.approx(0.2 * 0.01, rel=0.3)  # Muon's size is that of AdamW's later updates, about a fifth of it


def test_matrices_orthogonalised_together_move_as_torch_moves_each():
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 8), (24, 8), (8, 24), (8, 8)]
    begun = [torch.randn(shape, generator=generator) for shape in shapes]
    slopes = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3)]

    def moved(make):
        matrices = [torch.nn.Parameter(m.clone()) for m in begun]
        optimizer = make(matrices)
        for step in slopes:
            for matrix, slope in zip(matrices, step, strict=True):
                matrix.grad = slope.clone()
            optimizer.step()
        return [m.detach() - b for m, b in zip(matrices, begun, strict=True)]

    ours = moved(lambda matrices: Muon(matrices, lr=0.02))
    theirs = moved(lambda matrices: torch.optim.Muon(matrices, lr=0.02, adjust_lr_fn="match_rms_adamw"))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() < 0.03 * b.norm()  # torch computes in bfloat16


def test_a_factor_for_muon_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"'optim\.muon' is 0, expected a number above 0"):
        OptimConfig(muon=0)


def test_timing_an_update_leaves_the_weights_alone(tiny):
    before = {n: p.detach().clone() for n, p in tiny.named_parameters()}
    assert seconds_per_update(OptimConfig(muon=3.0), GatoLearner(tiny)) > 0
    assert all(torch.equal(p, before[n]) for n, p in tiny.named_parameters())


def test_a_recipe_knows_the_position_schemes_that_there_are() -> None:
    """It names them itself, since it imports no torch."""
    assert recipe.PositionScheme == transformer.PositionScheme
