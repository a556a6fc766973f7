"""What a mixture says: its sources, and the settings of each; checked before any file is opened.

Nothing here imports torch, so that a wrong key is refused before the seconds that takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar, get_args

from gato import envs
from gato.episode import Behaviour
from gato.setting import LONGEST_CHUNK, MAX_COUNT, MAX_SIDE, MAX_WORKERS, Settings, bounded, choice


@dataclass(frozen=True)
class SourceConfig(Settings):
    """A store's place in the mixture.

    - `weight`: expected share of rows, relative to the other sources. Where it is not given: 1, or what `temperature` says.
    - `store`: a folder; by default the one of the source's name in the stores folder.
    - `loss_weight`: factor on every target of this source.
    - `augment`: pictures are cropped, scaled and mirrored anew at every draw, those of control never mirrored; see `augmented`.
    - `image_size`: rows and columns that pictures are stretched to before they are cut into patches of 16 x 16 pixels, multiples of 16;
      a policy of the task stretches likewise. What is told apart by where it lies needs a patch about as small as it is.
    - `part`: `train` or `test` of the store's episodes; an episode's part follows from its number and the name of the store's first task.
    - `test_share`: expected share of the episodes in the part `test`.
    - `behaviours`: only episodes of these (expert, noisy, random, learner, human).
    - `max_episodes`: a cap: so many of the remaining episodes, drawn without regard to their order; a larger cap keeps a smaller one's.
    - `memory`: timesteps of a window at most, each window a document of its own behind its own prompt; by default as many as fit into
      the row. A policy of the task then acts with the same memory: trained on whole windows it may learn to repeat what it did
      before instead of looking (`GatoPolicy`).
    - `scattered`: windows of a short memory with pictures come from all over an episode; by default a few at a time lie within 64
      timesteps, which reads less from a disk, but what they show is much alike.
    - `chunk`: the actions of so many timesteps are predicted as one, in the compact layout and with a memory of 1; a policy plays them
      as `gato.learners.chunks` says. At an episode's end the last action is repeated.
    - `prompt_steps`: a prompt is the last so many timesteps of another episode, and a policy of the task is shown as many of a
      demonstration; by default prompts are of any length up to half of a row, and half of them from the end, as in the paper.
    - `return_token`: what is still to come of the episode's return is one more observation, and a policy is asked for a return.
    """

    section: ClassVar[str] = "data.sources"

    weight: float | None = bounded(None, 0, 1e9)
    store: str | None = None
    loss_weight: float = bounded(1.0, 0, 1e9)
    augment: bool = False
    image_size: tuple[int, int] | None = bounded(None, 16, MAX_SIDE)
    part: str | None = choice(None, ("train", "test"))
    test_share: float = bounded(0.1, 0, 1, above=True, below=True)
    behaviours: list[str] | None = choice(None, get_args(Behaviour))  # noqa: RUF009  # the default is None
    max_episodes: int | None = bounded(None, 1, MAX_COUNT)
    memory: int | None = bounded(None, 1, MAX_COUNT)
    scattered: bool = False
    chunk: int = bounded(1, 1, LONGEST_CHUNK)
    prompt_steps: int | None = bounded(None, 1, MAX_COUNT)
    return_token: bool = False


@dataclass(frozen=True)
class DataConfig(Settings):
    """The mixture.

    - `sources`: by name, for example `gymnasium/cartpole`.
    - `prompt_share`: share of control rows that start with a prompt.
    - `loss_on_prompts`: whether actions of prompts are targets, as all actions of the paper's rows are. A demonstration's actions are
      mostly told by those before them, which is learned first where they count.
    - `loss_on_text_observations`: whether instructions are targets (the paper's literal rule).
    - `tokenizer`: a SentencePiece model file; by default `tokenizer.model` in the stores folder.
    - `workers`: processes that read and tokenise; 0 does it in the training process.
    - `temperature`: T gives each source without a weight its size ** (1 / T), in tokens and scaled so that these weights average 1.
    - `held_out`: tasks (`family/name`) and families (`family/*`) that must not be trained on, beside those that the registry
      holds out for few-shot learning.
    - `include_held_out`: which of the registry's held-out tasks and families to train on all the same.
    """

    section: ClassVar[str] = "data"

    sources: Mapping[str, SourceConfig] = field(default_factory=dict)
    prompt_share: float = bounded(0.25, 0, 1)
    loss_on_prompts: bool = True
    loss_on_text_observations: bool = True
    tokenizer: str | None = None
    workers: int = bounded(0, 0, MAX_WORKERS)
    temperature: float | None = bounded(None, 0, 1e9, above=True)
    held_out: list[str] = field(default_factory=list)
    include_held_out: list[str] = field(default_factory=list)

    @property
    def all_held_out(self) -> list[str]:
        """`held_out`, and what the registry holds out."""
        return [*self.held_out, *(name for name in envs.held_out() if not is_held_out(name, [*self.held_out, *self.include_held_out]))]


def check(config: DataConfig) -> None:
    """**Raises:** `ValueError` for the first setting that makes no sense, before any file is opened."""
    if not config.sources:
        raise ValueError("the mixture has no sources; name at least one, such as 'sources: {gymnasium/cartpole: {}}'")
    weights = {name: 1.0 if s.weight is None else s.weight for name, s in config.sources.items()}
    if sum(weights.values()) <= 0:
        raise ValueError(f"mixture weights are {weights}; give at least one above zero")
    for pattern in config.held_out:
        if "/" not in pattern:
            raise ValueError(f"held_out names '{pattern}'; give tasks as family/name and whole families as {pattern}/*")
    for pattern in config.include_held_out:
        if not any(is_held_out(task, [pattern]) for task in envs.held_out()):
            raise ValueError(f"include_held_out names '{pattern}', which the registry does not hold out; docs/suites.md lists what it does")
    held_out = config.all_held_out
    for name in config.sources:
        refuse_held_out(name, [name], held_out)


def is_held_out(task: str, patterns: Sequence[str]) -> bool:
    """Whether a name, or the set that it is a member of, is one of `family/name`, or matches one of `family/*`."""
    return any(fnmatchcase(name, pattern) for name in {task, envs.set_of(task)} for pattern in patterns)


def refuse_held_out(source: str, tasks: Sequence[str], patterns: Sequence[str]) -> None:
    """**Raises:** `ValueError` if one of the names is held out."""
    found = [pattern for pattern in patterns if any(is_held_out(task, [pattern]) for task in tasks)]
    if not found:
        return
    hint = "remove it from the sources or from held_out"
    if by_registry := [pattern for pattern in found if pattern in envs.held_out()]:
        hint += f"; the registry keeps {by_registry[0]} for few-shot learning: to train on it all the same, name it in include_held_out"
    raise ValueError(f"source '{source}' is held out by {found}; {hint}")


def refuse_unused(name: str, config: SourceConfig, learner: str) -> None:
    """**Raises:** `ValueError` for a setting of the source that would change nothing here."""
    unused = {
        "augment": False, "image_size": None, "memory": None, "prompt_steps": None, "scattered": False, "chunk": 1, "loss_weight": 1.0,
        "return_token": False,
    }  # fmt: skip
    for setting, default in unused.items():
        if getattr(config, setting) != default:
            raise ValueError(f"source '{name}' has {setting} {getattr(config, setting)}, which {learner} knows not; leave it out")
