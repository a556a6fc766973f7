"""The settings of `gato eval` and `gato finetune`.

Nothing here imports torch, so that a wrong option is refused before the seconds that takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gato.envs.stream import EPISODE_SECONDS, STEP_SECONDS, EpisodeLimits
from gato.setting import MAX_COUNT, MAX_SEED, MAX_TEMPERATURE, Limits, Settings, bounded, choice
from gato.train.protocol import MODES, PROTOCOLS, Protocol

LEARNED_ALONE = ("retrieve", "knn", "lwr", "darp", "clone", "keypoints")  # from the demonstrations, without the checkpoint
AS_IT_IS = ("zero", "prompt")  # by the checkpoint, which is not changed: shown nothing, or the demonstrations
BASELINES = (*AS_IT_IS, *LEARNED_ALONE)
SHOWN = ("embed", "adapt")  # by a checkpoint that was trained to act on demonstrations
MOST = 100  # demonstrations that are learned from where no number is given
NO_CHECKPOINT = "nothing"  # in place of a layout or learner, where there is no checkpoint
MODES_OF = {  # by layout or learner of the checkpoint, where none are named
    "gato": ("full", "scratch", "prompt", "retrieve", "clone"),
    "compact": ("zero", "brief", "full", "scratch", "retrieve", "lwr", "clone"),
    "tecnets": ("embed", "retrieve", "clone"), "mil": ("adapt", "retrieve", "clone"),
    NO_CHECKPOINT: ("scratch", "retrieve", "lwr", "clone"),
}  # fmt: skip
LARGEST_RETURN = 1e30  # that may be asked for


@dataclass(frozen=True)
class EvalConfig(Settings):
    """- `tasks`: names; by default all control tasks of the checkpoint. `["none"]` for none.
    - `suite`: families such as `babyai`: those of the checkpoint's control tasks.
    - `against`: another checkpoint, which plays the same episodes of the tasks that both know; see `paired_comparison`.
    - `episodes` per task; `num_envs` of them side by side; `seed` of their starts.
    - `temperature` of the actions (0: the most likely one), by default 1 as in the paper, but for continuous ones in the compact
      layout, which are then not drawn; `overflow`: see `GatoPolicy`; by default rebuild, but rolling at a `rate` where no `memory`
      is asked for and positions are not learned.
    - `memory`: how many timesteps a policy sees, the present one among them; 0: as many as the context holds. By default what each
      task was trained with.
    - `target_return`: the return that a learner of returns is asked for, by default the highest of its data; with several every task
      is played for each, the first of them is the one that is scored, and a plot beside `out` shows what was asked and achieved.
    - `demonstrations`: so many expert episodes of the store that is called as the task, as prompts in turn; 0: no prompt.
    - `ablations`: also act with the picture blanked and with the instructions of other episodes.
    - `captions`: stores of held-out pictures; `caption_examples`: how many are shown; `nearest`: the store of the
      training pictures, for the control that copies the caption of the nearest one.
    - `text`: stores of documents, for bits per byte; at most `documents` of each.
    - `prompts`: texts to continue. `films`: a film strip per task.
    - `videos`: a folder beside `out` gets an MP4 of the best, the median and the worst episode of every task.
    - `rate`: in Hz; every task is then played in real time, in one environment, and missed deadlines are counted.
    - `step_seconds`: how long an environment may take for one answer before its episode has failed; 0: for ever.
    - `episode_steps`: timesteps after which an episode is truncated; by default 3,000 where the environment has no limit; 0: never.
    - `episode_seconds`: how long an environment may take for all answers of an episode before it has failed; 0: for ever.
    - `device`: cpu, cuda, cuda:1, mps; by default the best one here. `verify`: compare the checkpoint's files with their hashes.
    - `record`: folder in which the episodes are kept as stores, one per task; those of ablations are not.
    - `out`: where the results are written as JSON; by default `eval.json` in the checkpoint.
    """

    tasks: list[str] = field(default_factory=list)
    suite: list[str] = field(default_factory=list)
    against: Path | None = None
    episodes: int = bounded(50, 1, MAX_COUNT)
    num_envs: int = bounded(50, 1, 10_000)
    seed: int = bounded(0, 0, MAX_SEED)
    temperature: float | None = bounded(None, 0, MAX_TEMPERATURE)
    overflow: str | None = choice(None, ("rebuild", "rolling"))
    memory: int | None = bounded(None, 0, MAX_COUNT)
    target_return: list[float] = field(default_factory=list, metadata={"limits": Limits(-LARGEST_RETURN, LARGEST_RETURN)})
    demonstrations: int = bounded(0, 0, 10_000)
    ablations: bool = False
    captions: list[str] = field(default_factory=list)
    caption_examples: int = bounded(24, 0, MAX_COUNT)
    nearest: str | None = None
    text: list[str] = field(default_factory=list)
    documents: int = bounded(200, 1, MAX_COUNT)
    prompts: list[str] = field(default_factory=list)
    films: bool = False
    videos: bool = False
    rate: float | None = bounded(None, 0, 1e6, above=True)
    step_seconds: float = bounded(STEP_SECONDS, 0, 1e7)
    episode_steps: int | None = bounded(None, 0, MAX_COUNT)
    episode_seconds: float = bounded(EPISODE_SECONDS, 0, 1e7)
    record: Path | None = None
    device: str | None = None
    verify: bool = True
    out: Path | None = None

    @property
    def limits(self) -> EpisodeLimits:
        return EpisodeLimits(self.step_seconds, self.episode_steps, self.episode_seconds)


@dataclass(frozen=True)
class FewShotConfig(Settings):
    """- `data`: a store of demonstrations: a name, a folder, or the folder that `gato data import` made.
    - `env`: the environment: a task of the registry or any Gymnasium id, also as `MODULE:ID`; by default that of the store.
    - `success`: when an episode has succeeded, as `gato data collect` takes it; by default as the store or the registry says.
    - `episodes`: numbers of demonstrations; by default all that there are, at most 100. `modes`: of `full`, `brief`, `lora`, `frozen`,
      `scratch`, `zero`, `prompt`, `retrieve`, `knn`, `lwr`, `darp`, `clone`, `keypoints`, `embed`, `adapt`; by default what the checkpoint
      can do, beside `retrieve` and `clone`, and `keypoints` where there are pictures; without one `scratch` and what needs none.
    - `embed`, `adapt`: checkpoints of TecNets and of MIL for the modes of these names, where the checkpoint itself is none.
    - `series`: how many orders of the demonstrations, each with a training seed of its own.
    - `protocol`: `small` fits a CPU in minutes, and so does `compact` for that layout; `paper` is appendix E's. By default `compact` for
      a model of that layout, else `small`.
    - `steps`, `batch_size`, `learning_rate`, `micro_batch_size`, `evaluate_every`, `evaluation_episodes`: in place of the protocol's.
    - `rollouts`: episodes that each figure is measured on; `seed` of their starts; `temperature` of the actions, see `EvalConfig`.
    - `validation`: episodes of other starts that every saved policy plays, by which the one to take is chosen.
    - `memory`: how many timesteps a window of the training has and a policy sees, the present one among them; 0: as many as the
      context holds. By default that of the task, or of the nearest task the registry names, in the checkpoint; where it knows neither,
      1 in the compact layout and else 0.
    - `episode_steps`, `episode_seconds`: limits of an episode, as `gato eval` takes them.
    - `chunk`: so many timesteps' actions are learned as one, and averaged where they overlap; of modes that train, of a checkpoint in the
      compact layout with a memory of 1, and of those that learn alone.
    - `held_out`: demonstrations never trained on, which choose a step; by default a tenth, at most 20.
    - `device`, `verify`: as for `gato eval`.
    - `out`: folder of the results; by default `runs/fewshot-` and the task's name.
    """

    data: str
    env: str | None = None
    success: str | None = None
    episodes: tuple[int, ...] = bounded((), 1, MAX_COUNT)
    modes: tuple[str, ...] = choice((), MODES + BASELINES + SHOWN)
    embed: Path | None = None
    adapt: Path | None = None
    series: int = bounded(1, 1, 1000)
    protocol: str | None = choice(None, tuple(PROTOCOLS))
    steps: int | None = bounded(None, 1, MAX_COUNT)
    batch_size: int | None = bounded(None, 1, 2**20)
    learning_rate: float | None = bounded(None, 0, 100, above=True)
    micro_batch_size: int | None = bounded(None, 0, 2**20)
    evaluate_every: int | None = bounded(None, 1, MAX_COUNT)
    evaluation_episodes: int | None = bounded(None, 0, 10_000)
    rollouts: int = bounded(50, 1, MAX_COUNT)
    validation: int = bounded(20, 1, MAX_COUNT)
    seed: int = bounded(0, 0, MAX_SEED)
    temperature: float | None = bounded(None, 0, MAX_TEMPERATURE)
    memory: int | None = bounded(None, 0, MAX_COUNT)
    chunk: int = bounded(1, 1, 1024)
    held_out: int | None = bounded(None, 0, MAX_COUNT)
    episode_steps: int | None = bounded(None, 0, MAX_COUNT)
    episode_seconds: float = bounded(EPISODE_SECONDS, 0, 1e7)
    device: str | None = None
    verify: bool = True
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        able = (*MODES, *LEARNED_ALONE)
        if self.chunk > 1 and (others := [mode for mode in self.modes if mode not in able]):
            raise ValueError(f"'chunk' is {self.chunk}, but {', '.join(others)} has no chunks; name --modes among {', '.join(able)}")

    def fitted(self, kind: str, available: int = MOST, has_pictures: bool = False) -> FewShotConfig:
        """With what was not given: the protocol and the modes for a layout or learner, and as many demonstrations as are `available`.

        **Arguments:** `has_pictures`: whether the task shows some.
        """
        modes, is_compact = MODES_OF[kind], kind in ("compact", NO_CHECKPOINT)
        if self.chunk > 1:
            able = (*MODES, *LEARNED_ALONE) if is_compact else LEARNED_ALONE
            modes = tuple(mode for mode in modes if mode in able and mode not in ("brief", "lwr"))
        modes += ("keypoints",) * has_pictures
        return replace(
            self, protocol=self.protocol or ("compact" if is_compact else "small"), modes=self.modes or modes,
            episodes=self.episodes or (min(available, MOST),),
        )  # fmt: skip

    @property
    def limits(self) -> EpisodeLimits:
        return EpisodeLimits(episode_steps=self.episode_steps, episode_seconds=self.episode_seconds)

    @property
    def uses_checkpoint(self) -> bool:
        """Whether a mode acts with the checkpoint or trains it or its architecture."""
        return bool(set(self.modes) - set(LEARNED_ALONE) - set(SHOWN))

    @property
    def training(self) -> Protocol:
        """The protocol with what was given in place of its numbers."""
        names = ("steps", "batch_size", "learning_rate", "micro_batch_size", "evaluate_every", "evaluation_episodes")
        given: dict[str, Any] = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        alone: dict[str, Any] = ({"timesteps": 0} if "batch_size" in given else {}) | ({"rounds": 0} if "steps" in given else {})
        return replace(PROTOCOLS[self.protocol or "small"], **given, **alone)


@dataclass(frozen=True)
class ArenaConfig(Settings):
    """- `tasks`: names of tasks and of sets of tasks, such as `reach2d/test`.
    - `demonstrations`: how many of each task are shown, one or several numbers; `store`: whose, by default the one called as the task.
    - `baselines`: what learns from these demonstrations alone: `retrieve`, `knn`, `lwr`, `darp`, `clone`, `keypoints`.
    - `retrieve`: a store of known tasks, such as `reach2d/train`: beside every checkpoint of TecNets stands a line of looking up the
      nearest timestep in it, among all demonstrations of the 20 tasks that are nearest by its embedding, and those shown.
    - `episodes` of every task, or over the tasks of a set; `num_envs` of them side by side; `seed` of their starts.
    - `temperature`: of the actions of a Gato, see `EvalConfig`; all others act as they always do.
    - `films`: a strip of a success and of a failure in every cell.
    - `device`, `verify`: as for `gato eval`. `out`: folder of the results.
    """

    tasks: list[str] = field(default_factory=list)
    demonstrations: tuple[int, ...] = bounded((1,), 1, 10_000)
    store: str | None = None
    baselines: tuple[str, ...] = choice((), LEARNED_ALONE)
    retrieve: str | None = None
    episodes: int = bounded(80, 1, MAX_COUNT)
    num_envs: int = bounded(50, 1, 10_000)
    seed: int = bounded(0, 0, MAX_SEED)
    temperature: float | None = bounded(None, 0, MAX_TEMPERATURE)
    films: bool = True
    device: str | None = None
    verify: bool = True
    out: Path = Path("runs/arena")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks or not self.demonstrations:
            raise ValueError("'tasks' or 'demonstrations' is empty; name tasks such as --tasks reach2d/test, and how many are shown")
