"""`gato finetune --dry-run`: what a grid would do and cost here, without training."""

from __future__ import annotations

from pathlib import Path

from gato.agent import Agent
from gato.episode import Episode
from gato.eval.report.fewshot_table import drawn_from, origin_lines
from gato.learners.one_shot.agent import OneShotAgent
from gato.spec import TaskSpec
from gato.train.finetune import speed, tokenizer_of
from gato.train.protocol import MODES

from .demonstrations import fitted, known, measured_by, open_demonstrations, with_memory
from .fewshot import check_modes, kind_of, opened, subset
from .fewshot_choice import RUN_OFF
from .settings import FewShotConfig

NETWORKS = ("darp", "clone", "keypoints")  # that are trained and follow no protocol


def plan(checkpoint: Path | None, config: FewShotConfig) -> str:
    """What `few_shot` would do: the cells, and what they cost here; where a mode uses the checkpoint, two timesteps as it sees them.

    **Raises:** `ValueError` for data that do not fit the task or the checkpoint, and for a checkpoint that trains nothing.
    """
    from tempfile import TemporaryDirectory

    agent = opened(checkpoint, config)
    if isinstance(agent, OneShotAgent):
        raise ValueError(
            f"--dry-run plans the training of a Gato, and '{checkpoint}' holds {agent.learner}, which trains nothing; leave it out"
        )
    demonstrations = open_demonstrations(config)
    config = fitted(config, kind_of(checkpoint, agent), demonstrations, agent)
    protocol = config.training
    demonstrations = with_memory(known(demonstrations, agent), agent, config.memory)
    check_modes(demonstrations.task, agent, config)
    count = max(config.episodes)
    demonstrations = measured_by(demonstrations, agent, demonstrations.series(0, count))
    task, most = demonstrations.task, demonstrations.series(0, count)
    lines = _layout(agent, task, most[0]) if config.uses_checkpoint else []
    lines.append(drawn_from(len(demonstrations.pool), len(demonstrations.held_out), demonstrations.left_out))
    lines += origin_lines(demonstrations.inferred)
    least, longest, measured = 0.0, 0.0, {}
    places = len(set(config.episodes)) * config.series
    with TemporaryDirectory() as folder:
        store = subset(demonstrations, most, Path(folder) / "demonstrations")
        for mode in (m for m in config.modes if m in MODES):
            is_alike = mode == "scratch" and tokenizer_of(agent, task, protocol, mode).pool_patches == agent.tokenizer.pool_patches
            work = "full" if is_alike or mode == "brief" else mode  # other weights of the same architecture cost the same
            if work not in measured:
                measured[work] = speed(agent, task, store, protocol, work)
            seconds, trained = measured[work]
            few, many = protocol.of(mode).updates(bool(demonstrations.held_out))
            least, longest = least + places * seconds * few, longest + places * seconds * many
            cost, updates = _range(seconds * few, seconds * many), _range(few, many)
            lines.append(f"{mode}: {trained:,} trained parameters, {seconds:.3f} s an update, {cost} s a cell of {updates} updates")
    played = _most_episodes(config, bool(demonstrations.held_out))
    training = f"{_range(least, longest)} s of training in all; " if measured else ""
    if small := [mode for mode in config.modes if mode in NETWORKS]:
        training += f"beside that {', '.join(small)} train until they have converged, which is not measured here; "
    lines.append(f"{len(config.modes) * places} cells: {training}up to {played} episodes played in each")
    return "\n".join(lines)


def _layout(agent: Agent, task: TaskSpec, episode: Episode) -> list[str]:
    """Two timesteps as the model sees them, and how many its context holds."""
    per_timestep, context = agent.tokenizer.positions_per_timestep(task), agent.model.config.context_length
    unit = "tokens" if agent.tokenizer.layout == "gato" else "positions"
    return [
        agent.tokenizer.show(agent.tokenizer.encode(episode.window(0, 2))),
        f"{per_timestep} {unit} a timestep, {context // per_timestep} timesteps in the context of {context}",
    ]


def _range(few: float, many: float) -> str:
    return f"{few:.0f}" if f"{few:.0f}" == f"{many:.0f}" else f"{few:.0f} to {many:.0f}"


def _most_episodes(config: FewShotConfig, is_judged: bool) -> int:
    """What a cell plays at most: for its figures, and for the choice with its run-off.

    One that trains has a figure of the last step, one of the step chosen on held-out demonstrations, and plays at every evaluation.
    """
    protocol, trains = config.training, bool(set(config.modes) & set(MODES))
    evaluations = -(-protocol.updates(is_judged)[1] // protocol.evaluate_every) + (protocol.rounds if is_judged else 0)
    measured = config.rollouts * (1 + (trains and is_judged and not protocol.takes_last))
    saving = len(set(config.modes) - {"prompt"})  # a prompt leaves no policy
    chosen = config.validation * ((saving * config.series > 1) + RUN_OFF * (saving > 1))
    return trains * evaluations * protocol.evaluation_episodes + measured + chosen
