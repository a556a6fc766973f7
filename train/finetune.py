"""Fine-tuning on a handful of demonstrations (Gato, section 5.2 and appendix E): one agent, one store, one budget.

`eval/fewshot.py` calls this for every cell of its grid and does the measuring.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from gato.agent import Agent
from gato.batch import TokenSequence, collate, join
from gato.data.mixture import Mixture
from gato.data.selection import DataConfig, SourceConfig
from gato.data.store import Store
from gato.episode import Episode
from gato.learners.chunks import chunked_episode
from gato.learners.gato import GatoLearner
from gato.model import Gato
from gato.spec import Modality, TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer

from .checkpoint import Progress
from .devices import make_accelerator
from .engine import PlainEngine
from .loop import StopRequest, seconds_per_step, train
from .metrics import MetricsLog
from .optim import make_optimizer
from .protocol import MODES, Protocol
from .recipe import OptimConfig, TrainConfig
from .schedule import Schedule

HELD_OUT_ROWS = 32  # windows of held-out demonstrations whose loss chooses a step
SHORTEST = 32  # positions of a row, at least
GAIN = 0.05  # share by which a round must lower that loss for another one to follow; of a loss above 1 so many nats, since the
# loss of continuous actions has a floor of some 4


@dataclass
class Finetuned:
    """What a cell's training left behind.

    - `agent`: with the weights of the last step; `chosen`: the weights of the step with the lowest loss on held-out
      demonstrations, `None` without any, or where the protocol takes the last.
    - `curve`: per evaluation `step`, `held_out_loss` and `returns`; `seconds`: training alone.
    - `trained`: how many parameters were; `steps`: the updates taken.
    """

    agent: Agent
    chosen: dict[str, torch.Tensor] | None
    chosen_step: int | None
    curve: list[dict[str, Any]]
    seconds: float
    trained: int
    steps: int = 0


def finetune(
    agent: Agent,
    task: TaskSpec,
    store: Path,
    held_out: Sequence[Episode],
    protocol: Protocol,
    mode: str,
    seed: int,
    folder: Path,
    evaluate: Callable[[Agent, int], list[float | None]],
) -> Finetuned:
    """Trains a copy of the agent on all episodes of a store, in windows of the task's memory.

    **Arguments:**

    - `held_out`: demonstrations of the task that the store does not hold; may be empty.
    - `mode`: of `MODES`; `seed`: of new weights, adapters and the data order.
    - `folder`: where `metrics.jsonl` goes.
    - `evaluate`: `(agent, step) -> returns`, called every `protocol.evaluate_every` updates and at the end.

    **Raises:** `ValueError` for an unknown mode, or a store that does not fit the model; `ImportError` with the pip line
    where `lora` needs peft.
    """
    protocol = protocol.of(mode)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        run = _set_up(agent, task, store, protocol, mode, seed)
        model, learner = run.learner.model, run.learner
        tuned = Agent(model, run.mixture.tokenizer, {**agent.tasks, task.name: task})
        found = Finetuned(tuned, None, None, [], 0.0, run.trained)
        lowest, looking = float("inf"), 0.0

        def look(at: Progress) -> None:
            nonlocal lowest, looking
            started = time.monotonic()
            loss = held_out_loss(tuned, held_out)
            found.curve.append({"step": at.step, "held_out_loss": loss, "returns": evaluate(tuned, at.step)})
            if loss is not None and loss < lowest and not protocol.takes_last:
                lowest, found.chosen_step = loss, at.step
                found.chosen = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
            learner.train()  # acting has put the model into evaluation mode
            looking += time.monotonic() - started

        log = MetricsLog(folder / "metrics.jsonl", 0, protocol.steps)
        try:
            engine = PlainEngine(learner, run.optimizer, run.accelerator, run.optim.clip)
            progress, before, started = Progress(), float("inf"), time.monotonic()
            for number in range(1 + protocol.rounds):
                total = progress.step + (protocol.steps if number == 0 else -(-protocol.steps // 2))
                progress = train(engine, run.mixture, run.settings, run.optim, log, progress, look, StopRequest(), Schedule(total))
                look(progress)
                loss = found.curve[-1]["held_out_loss"]
                if loss is None or loss > before - GAIN * min(1.0, before):
                    break
                if number < protocol.rounds:
                    print(f"{mode}: the loss of held-out demonstrations has fallen to {loss:.3g}, so another round follows", flush=True)
                before = loss
        finally:
            log.close()
        found.seconds, found.steps = time.monotonic() - started - looking, progress.step
        model.eval()
    return found


def merged(agent: Agent) -> Agent:
    """The agent with LoRA adapters folded into its weights, so that it is saved and loaded like any other."""
    from copy import deepcopy

    model = deepcopy(agent.model)
    for module in list(model.modules()):
        child: Any
        for name, child in list(module.named_children()):
            if hasattr(child, "merge") and hasattr(child, "get_base_layer"):
                child.merge()
                setattr(module, name, child.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return Agent(model, agent.tokenizer, agent.tasks)


def held_out_loss(agent: Agent, episodes: Sequence[Episode]) -> float | None:
    """The mean loss per target over the first windows of some demonstrations; `None` without any."""
    length = agent.model.config.context_length
    rows: list[TokenSequence] = []
    for episode in episodes:
        if (chunk := agent.tasks.get(episode.task.name, episode.task).chunk) is not None:
            episode = chunked_episode(episode, chunk)
        steps = max(1, length // agent.tokenizer.positions_per_timestep(episode.task))
        memory = min(steps, agent.tasks.get(episode.task.name, episode.task).memory or steps)
        for start in range(0, episode.num_timesteps, steps):
            if len(rows) < HELD_OUT_ROWS:
                starts = range(start, min(start + steps, episode.num_timesteps), memory)
                windows = [agent.tokenizer.encode(episode.window(s, min(s + memory, start + steps))) for s in starts]
                rows.append(join(windows, same_document=False).cut(length))
    if not rows:
        return None
    agent.model.eval()
    learner, total, targets = GatoLearner(agent.model).eval(), 0.0, 0.0
    for start in range(0, len(rows), 8):
        batch = collate(rows[start : start + 8], length, agent.tokenizer.vocabulary.pad).to(agent.model.device)
        with torch.inference_mode():
            _, sums = learner(batch)
        total, targets = total + float(sums["loss_sum"].sum()), targets + float(sums["targets"].sum())
    return total / targets


def speed(agent: Agent, task: TaskSpec, store: Path, protocol: Protocol, mode: str) -> tuple[float, int]:
    """Seconds of forward and backward of one update here, and how many parameters are trained: what a cell will cost."""
    with torch.random.fork_rng():
        run = _set_up(agent, task, store, protocol, mode, 0)
        device, autocast = run.accelerator.device, run.accelerator.autocast
        return seconds_per_step(run.learner, run.mixture, run.settings, device, autocast, repeats=2), run.trained


@dataclass(frozen=True)
class _Run:
    """Everything that the loop takes."""

    learner: GatoLearner
    mixture: Mixture
    optimizer: torch.optim.Optimizer
    optim: OptimConfig
    settings: TrainConfig
    accelerator: Accelerator

    @property
    def trained(self) -> int:
        """How many parameters are."""
        return sum(p.numel() for p in self.learner.parameters() if p.requires_grad)


def _set_up(agent: Agent, task: TaskSpec, store: Path, protocol: Protocol, mode: str, seed: int) -> _Run:
    tokenizer = tokenizer_of(agent, task, protocol, mode)
    source = SourceConfig(store=str(store), memory=task.memory, chunk=task.chunk or 1, scattered=True)
    data = DataConfig(
        sources={task.name: source}, loss_on_text_observations=tokenizer.loss_on_text_observations,
        include_held_out=["*"],  # they are held out for this
        prompt_share=0.0 if task.memory and tokenizer.layout == "compact" else 0.25,  # a short memory is played without
    )  # fmt: skip
    rows, context = _size(agent, task, store, protocol, tokenizer)
    mixture = Mixture(data, tokenizer, context, seed)  # without stochastic depth
    learner = GatoLearner(_model(agent, mode, protocol, tokenizer.pool_patches))
    optim = OptimConfig(
        learning_rate=protocol.learning_rate, initial_learning_rate=min(1e-7, protocol.learning_rate), warmup_steps=protocol.warmup_steps,
        final_ratio=protocol.final_ratio, weight_decay=protocol.weight_decay,
    )  # fmt: skip
    optimizer = make_optimizer(optim, _groups(learner, optim.weight_decay, protocol.direct_rate))
    settings = TrainConfig(
        steps=protocol.steps, batch_size=rows, micro_batch_size=protocol.micro_batch_size, seed=seed,
        save_every=protocol.evaluate_every, device=agent.model.device.type,
    )  # fmt: skip
    return _Run(learner, mixture, optimizer, optim, settings, make_accelerator(optim, settings))


def _size(agent: Agent, task: TaskSpec, store: Path, protocol: Protocol, tokenizer: EpisodeTokenizer) -> tuple[int, int]:
    """Rows of an update, and their positions: for no more timesteps than there are, which an update would only repeat."""
    context = agent.model.config.context_length
    if not protocol.timesteps:
        return protocol.batch_size, context
    per_timestep, there = tokenizer.positions_per_timestep(task), Store(store).num_timesteps
    wanted = min(protocol.timesteps, there) * per_timestep
    wanted = min(wanted, protocol.positions or wanted)
    rows = max(protocol.batch_size, -(-wanted // context))
    is_short = task.memory == 1 and tokenizer.layout == "compact" and not any(f.modality is Modality.TEXT for f in task.fields)
    if there < protocol.timesteps and is_short:
        context = min(context, max(-(-wanted // rows), per_timestep, SHORTEST))
    return rows, context


def tokenizer_of(agent: Agent, task: TaskSpec, protocol: Protocol, mode: str) -> EpisodeTokenizer:
    """The agent's; where a mode begins from new weights, with as many patches at a position as the protocol says."""
    tokenizer = agent.tokenizer
    if mode != "scratch" or tokenizer.layout != "compact" or not protocol.picture_positions:
        return tokenizer
    return tokenizer.pooled(task, protocol.picture_positions)


def _groups(learner: GatoLearner, weight_decay: float, direct_rate: float) -> list[dict]:
    """The learner's groups of what is trained; what is read from the direct path of the compact layout has a rate of its own."""
    actions = learner.model.actions
    swift = [] if actions is None else [p for p in actions.direct.read_out() if p.requires_grad]
    known = set(map(id, swift))
    groups = [
        g | {"params": [p for p in g["params"] if p.requires_grad and id(p) not in known]} for g in learner.parameter_groups(weight_decay)
    ]
    groups.append({"params": swift, "weight_decay": 0.0, "rate_factor": direct_rate})
    return [g for g in groups if g["params"]]


def _model(agent: Agent, mode: str, protocol: Protocol, pool_patches: int) -> Gato:
    """A copy of the agent's model of which only what `mode` says can change; `pool_patches`: of a new one."""
    if mode not in MODES:
        raise ValueError(f"there is no mode '{mode}'; known are {', '.join(MODES)}")
    device = agent.model.device
    if mode == "scratch":
        config = copy.deepcopy(agent.model.config)
        config.pool_patches = pool_patches
        model = Gato(config)
    else:
        model = copy.deepcopy(agent.model)
    model.to(device)  # type: ignore[arg-type]  # transformers wraps it
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = protocol.dropout
    if mode == "frozen":
        model.transformer.requires_grad_(False)
    if mode == "lora":
        _add_adapters(model)
    return model


def _add_adapters(model: Gato, rank: int = 8) -> None:
    """Freezes the model and puts a trainable matrix of low rank beside every matrix of its layers."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(f"mode 'lora' needs peft, which is not installed ({error}); run: pip install 'opengato[peft]'") from error
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), model)
