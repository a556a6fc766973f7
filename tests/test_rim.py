"""Recurrent independent mechanisms: the program over all blocks against its steps written out, block by block."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from gato import envs
from gato.cli import main
from gato.eval.insight.trace import BLOCK, DARK, GAP, LEFT, PALE, trace
from gato.learners.ppo.agent import PPOAgent
from gato.learners.ppo.config import MEMORIES, MetaConfig, NetworkConfig
from gato.learners.ppo.memories import make_memory
from gato.learners.ppo.network import ActorCritic
from gato.learners.ppo.observations import Words
from gato.learners.ppo.rim import HEAD_WIDTH, HEADS, KEY, RIM
from gato.learners.ppo.speeds import parameter_groups
from gato.train.metrics import read_metrics


def make(cell: str = "lstm", num_active: int = 2) -> RIM:
    torch.manual_seed(1)
    return RIM(5, 12, 4, num_active, cell)


def by_hand(rim: RIM, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """One timestep of one stream, (inputs,) and (size,) -> (size,)."""
    n, d = rim.num_blocks, rim.width // rim.num_blocks
    hidden, cell = state[: rim.width].split(d), state[rim.width :].split(d)
    embedded = rim.embedding(x)
    slots = torch.stack([torch.zeros_like(embedded), embedded])
    keys, values = rim.key(slots), rim.value(slots)
    weights = [torch.softmax(keys @ (h @ rim.query[i]) / math.sqrt(KEY), dim=0) for i, h in enumerate(hidden)]
    active = sorted(range(n), key=lambda i: weights[i][0].item())[: rim.num_active]  # least weight on the null slot
    new_hidden, new_cell = [], []
    for i in range(n):
        taken = weights[i] @ values @ rim.cell_input[i] + rim.cell_bias[i, 0]
        kept = hidden[i] @ rim.cell_state[i]
        if rim.size == 2 * rim.width:
            let_in, forget, let_out, candidate = (taken + kept).chunk(4)
            new_cell.append(torch.sigmoid(forget) * cell[i] + torch.sigmoid(let_in) * torch.tanh(candidate))
            new_hidden.append(torch.sigmoid(let_out) * torch.tanh(new_cell[-1]))
        else:
            reset, update = torch.sigmoid(taken + kept)[: 2 * d].chunk(2)
            candidate = torch.tanh(taken[2 * d :] + reset * kept[2 * d :])
            new_hidden.append((1 - update) * candidate + update * hidden[i])
    parts = torch.stack([h @ rim.communication[i] for i, h in enumerate(new_hidden)]).unflatten(1, (3, HEADS, HEAD_WIDTH))
    told = []
    for i in range(n):
        heads = [torch.softmax(parts[:, 1, j] @ parts[i, 0, j] / math.sqrt(HEAD_WIDTH), 0) @ parts[:, 2, j] for j in range(HEADS)]
        gate, content = rim.read(torch.cat(heads)).chunk(2)
        told.append(torch.sigmoid(gate) * torch.tanh(content))
    out = [new_hidden[i] + told[i] if i in active else hidden[i] for i in range(n)]
    out += [new if i in active else cell[i] for i, new in enumerate(new_cell)]
    return torch.cat(out)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("num_active", [2, 4])
def test_the_batched_program_is_its_steps_written_out(cell, num_active):
    rim = make(cell, num_active)
    x, state = torch.randn(3, 2, 5), torch.randn(3, rim.size)
    y, after = rim(x, state, torch.zeros(3, 2, dtype=torch.bool))
    for row in range(3):
        middle = by_hand(rim, x[row, 0], state[row])
        torch.testing.assert_close(y[row, 0], middle[: rim.width])
        torch.testing.assert_close(after[row], by_hand(rim, x[row, 1], middle))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_k_blocks_are_active_and_the_others_keep_their_state_bit_for_bit(cell):
    rim = make(cell)
    state = torch.randn(6, rim.size)
    _, after = rim(torch.randn(6, 1, 5), state, torch.zeros(6, 1, dtype=torch.bool))
    assert (rim.active.sum(dim=-1) == 2).all() and rim.active.shape == (6, 1, 4)
    is_same = (after == state).unflatten(1, (-1, 4, 3)).all(dim=-1)  # (rows, hidden and cell, blocks)
    assert (is_same == ~rim.active).all()


def test_a_block_that_is_not_active_learns_nothing_from_the_timestep_though_others_read_it():
    rim = make(num_active=1)
    y, _ = rim(torch.randn(1, 1, 5), torch.randn(1, rim.size), torch.zeros(1, 1, dtype=torch.bool))
    y.square().sum().backward()
    active = rim.active[0, 0]
    for parameter in (rim.cell_input, rim.cell_state, rim.cell_bias):
        assert ((parameter.grad.abs().sum(dim=(1, 2)) > 0) == active).all()
    assert (rim.communication.grad.abs().sum(dim=(1, 2)) > 0).all()  # they are read


def test_an_input_of_zeros_is_not_the_null_slot():
    rim = make()
    zeros, first = torch.zeros(1, 1, 5), torch.ones(1, 1, dtype=torch.bool)
    assert rim.embedding(zeros).abs().sum() > 0
    assert rim(zeros, torch.zeros(1, rim.size), first)[0].abs().sum() > 0


@pytest.mark.parametrize("memory", MEMORIES)
def test_one_step_after_another_is_the_whole_sequence_also_across_the_beginning_of_an_episode(memory):
    torch.manual_seed(0)
    module = make_memory(NetworkConfig(memory=memory, memory_width=8), 5)
    x, state, first = torch.randn(3, 6, 5), torch.randn(3, module.size), torch.zeros(3, 6, dtype=torch.bool)
    first[1, 3] = first[2, 0] = True
    whole, after = module(x, state, first)
    steps, held = [], state
    for t in range(6):
        y, held = module(x[:, t : t + 1], held, first[:, t : t + 1])
        steps.append(y)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)
    torch.testing.assert_close(held, after)
    anew, _ = module(x[1:2, 3:], torch.zeros(1, module.size), torch.zeros(1, 3, dtype=torch.bool))
    torch.testing.assert_close(whole[1:2, 3:], anew)


def test_blocks_that_do_not_divide_the_memory_are_refused():
    with pytest.raises(ValueError, match="expected a multiple of the blocks"):
        NetworkConfig(memory="rim", memory_width=10, num_blocks=4)
    with pytest.raises(ValueError, match="no more active ones than there are"):
        NetworkConfig(memory="rim", num_blocks=4, num_active=5)


# -- two speeds ------------------------------------------------------------------------------------------


META = """
learner: ppo
env: {task: toy/corridor, num_envs: 2, frames: 40}
model: {width: 8, memory: MEMORY, memory_width: 8, num_blocks: 4, num_active: 2}
ppo: {rollout: 4, span: 2, epochs: 1}
meta: {slow: SLOW, slow_factor: 2}
optim: {learning_rate: 0.01, warmup_steps: 0, weight_decay: 0.1}
train: {name: meta, batch_size: 4, save_every: 1, threads: 1, device: cpu, keep: 99}
"""


@pytest.mark.parametrize(("memory", "slow"), [("rim", "attention"), ("rim", "cells"), ("lstm", "attention")])
def test_fast_parameters_learn_in_short_rollouts_and_slow_ones_in_long_ones_and_else_stay_bit_for_bit(memory, slow, tmp_path, monkeypatch):
    """Rollouts of 4, 4 and 8 timesteps, and again, of one update each."""
    monkeypatch.chdir(tmp_path)
    Path("meta.yaml").write_text(META.replace("MEMORY", memory).replace("SLOW", slow))
    assert main(["pretrain", "meta.yaml"]) == 0
    lines = read_metrics(Path("runs/meta/metrics.jsonl"))
    assert [line["frames"] for line in lines] == [8, 16, 32, 40]
    assert [line["targets"] for line in lines] == [8, 16, 32, 40]
    weights = [load_file(f"runs/meta/{name}/model.safetensors") for name in ("step-1", "step-2", "step-3", "final")]
    slowly = {"memory.key.weight", "memory.query", "memory.communication", "memory.read.weight", "critic.0.weight"}
    quickly = {"memory.cell_input", "memory.cell.weight_ih", "actor.0.weight", "memory.cell_bias"}
    slowly, quickly = (slowly, quickly) if slow == "attention" else (quickly, slowly)
    slowly, quickly = slowly & weights[0].keys(), (quickly | {"encoder.tables.0.bag.weight"}) & weights[0].keys()
    for before, after, moving, still in ((0, 1, quickly, slowly), (1, 2, slowly, quickly), (2, 3, quickly, slowly)):
        for name in weights[0]:
            moved = not torch.equal(weights[before][name], weights[after][name])
            assert moved or name not in moving, name
            assert not moved or name not in still, name


def test_a_run_goes_on_from_between_two_speeds_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = META.replace("MEMORY", "rim").replace("SLOW", "attention").replace("epochs: 1", "epochs: 2")
    Path("meta.yaml").write_text(recipe)
    assert main(["pretrain", "meta.yaml"]) == 0
    whole = load_file("runs/meta/final/model.safetensors")
    for folder in Path("runs/meta").iterdir():
        if folder.name in ("step-6", "step-7", "final"):
            shutil.rmtree(folder)
    assert main(["pretrain", "meta.yaml"]) == 0  # from within the long rollout
    again = load_file("runs/meta/final/model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_one_learning_rate_for_each_speed_needs_no_phases():
    model = ActorCritic(envs.task("toy/corridor"), NetworkConfig(width=8, memory="rim", memory_width=8), Words(()))
    groups = parameter_groups(model, MetaConfig(slow="attention", phases=False, slow_rate=1e-5), 4, 0.1)
    assert [("turns" in group, group.get("learning_rate")) for group in groups] == [(False, None)] * 2 + [(False, 1e-5)] * 2
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(p.numel() for p in model.parameters())


# -- looking inside --------------------------------------------------------------------------------------


def test_an_episode_is_drawn_with_what_the_critic_expected_and_which_blocks_took_part(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task, config = envs.task("toy/corridor"), NetworkConfig(width=8, memory="rim", memory_width=8, num_blocks=4, num_active=1)
    torch.manual_seed(0)
    agent = PPOAgent.of(task, config, Words(()), ActorCritic(task, config, Words(())).state_dict())
    agent.save("corridor")
    assert main(["show", "corridor", "--trace", "toy/corridor", "--out", "trace.png", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["active"]) == 4 and sum(shown["active"]) == pytest.approx(1)  # one of four at every timestep
    found = trace(agent, "toy/corridor", seed=0)
    assert len(found.values) == len(found.rewards) == shown["timesteps"] and found.active.sum(axis=1).tolist() == [1] * shown["timesteps"]
    pixels = np.asarray(Image.open("trace.png"))
    lowest = pixels[-20 - 4 * BLOCK - GAP : -20, LEFT:]  # the rows of the blocks
    dark = (lowest == DARK).all(axis=2).any(axis=1).sum()
    assert dark > 0 and (lowest == PALE).all(axis=2).sum() > 2 * (lowest == DARK).all(axis=2).sum()  # three blocks of four are pale
    assert main(["show", "corridor", "--trace", "toy/corridor", "--out", "trace.gif"]) == 2
    assert capsys.readouterr().err.endswith("gato: 'trace.gif' is neither .png nor .html; name one of these\n")
