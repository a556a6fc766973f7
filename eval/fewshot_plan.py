"""`gato finetune --dry-run`: what a grid would do and cost here, without training."""

from __future__ import annotations

from pathlib import Path

from gato.eval.report.fewshot_table import drawn_from, origin_lines
from gato.learners.one_shot.agent import OneShotAgent
from gato.train.finetune import speed, tokenizer_of
from gato.train.protocol import MODES

from .demonstrations import check_fits, fitted, known, measured_by, open_demonstrations, with_memory
from .fewshot import opened, subset
from .settings import FewShotConfig


def plan(checkpoint: Path, config: FewShotConfig) -> str:
    """What `few_shot` would do: the tokens of two timesteps as the model sees them, the cells, and what they cost here."""
    from tempfile import TemporaryDirectory

    agent = opened(checkpoint, config)
    if isinstance(agent, OneShotAgent):
        raise ValueError(
            f"--dry-run plans the training of a Gato, and '{checkpoint}' holds {agent.learner}, which trains nothing; leave it out"
        )
    demonstrations = open_demonstrations(config)
    config = fitted(config, agent.tokenizer.layout, demonstrations)
    protocol = config.training
    demonstrations = with_memory(known(demonstrations, agent), agent, config.memory)
    check_fits(demonstrations.task, agent)
    count = max(config.episodes)
    demonstrations = measured_by(demonstrations, agent, demonstrations.series(0, count))
    task, most = demonstrations.task, demonstrations.series(0, count)
    per_timestep, context = agent.tokenizer.positions_per_timestep(task), agent.model.config.context_length
    lines = [agent.tokenizer.show(agent.tokenizer.encode(most[0].window(0, 2)))]
    unit = "tokens" if agent.tokenizer.layout == "gato" else "positions"
    lines.append(f"{per_timestep} {unit} a timestep, {context // per_timestep} timesteps in the context of {context}")
    lines.append(drawn_from(len(demonstrations.pool), len(demonstrations.held_out), demonstrations.left_out))
    lines += origin_lines(demonstrations.inferred)
    total, measured = 0.0, {}
    with TemporaryDirectory() as folder:
        store = subset(demonstrations, most, Path(folder) / "demonstrations")
        for mode in (m for m in config.modes if m in MODES):
            is_alike = mode == "scratch" and tokenizer_of(agent, task, protocol, mode).pool_patches == agent.tokenizer.pool_patches
            work = "full" if is_alike or mode == "brief" else mode  # other weights of the same architecture cost the same
            if work not in measured:
                measured[work] = speed(agent, task, store, protocol, work)
            seconds, trained = measured[work]
            steps = protocol.of(mode).steps
            cost = seconds * steps
            total += cost * len(set(config.episodes)) * config.series
            lines.append(f"{mode}: {trained:,} trained parameters, {seconds:.3f} s an update, {cost:.0f} s a cell of {steps} updates")
    cells = len(config.modes) * len(set(config.episodes)) * config.series
    evaluations = protocol.steps // protocol.evaluate_every * protocol.evaluation_episodes + 2 * config.rollouts + config.validation
    lines.append(f"{cells} cells: {total:.0f} s of training in all; up to {evaluations} episodes played in each")
    return "\n".join(lines)
