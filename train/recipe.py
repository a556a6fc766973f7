"""What a recipe says: the sections of its YAML file, `model`, `data`, `optim` and `train`.

Nothing here imports torch, so that a wrong key is refused before the seconds that takes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from gato.data.selection import DataConfig, check
from gato.layers.layout import Layout
from gato.setting import MAX_COUNT, MAX_SEED, MAX_THREADS, Settings, bounded, choice, text
from gato.tokenizers.vocabulary import Vocabulary

SIZES = tuple(f"gato-{size}{twin}" for size in ("79m", "364m", "1b") for twin in ("", "-rope"))  # those of `gato.model.preset`
RUN_NAME = r"[^\s./\\-][^/\\\x00-\x1f]{0,59}"  # a folder beside others, on every system
PositionScheme = Literal["rope", "transformer_xl", "learned"]  # those of `gato.layers.transformer`, which imports torch


@dataclass(frozen=True)
class ModelConfig(Settings):
    """The architecture: a `size` of the paper (`gato-79m`, `gato-364m`, `gato-1b`, each with a `-rope` twin), or the numbers.

    `layout`: `gato`, the paper's, or `compact`; `pool_patches`: in the compact one so many rows and columns of a picture's patches
    share a position. The vocabulary follows from the tokenizer. See `GatoConfig` for the fields.
    """

    section: ClassVar[str] = "model"

    size: str | None = choice(None, SIZES)
    layout: Layout = "gato"
    pool_patches: int = bounded(1, 1, 64)
    num_layers: int = bounded(4, 1, 1000)
    num_heads: int = bounded(4, 1, 1024)
    width: int = bounded(128, 1, 2**17)
    head_width: int = bounded(32, 2, 2**12, multiple=2)  # rotations turn pairs
    feed_forward: int = bounded(512, 2, 2**20, multiple=2)  # GEGLU has two halves
    positions: PositionScheme = "rope"
    context_length: int = bounded(1024, 1, 2**24)
    max_local_positions: int = bounded(512, 1, 2**20)
    patch_channels: int = bounded(32, 32, 2**12, multiple=32)  # in 32 groups
    drop_path: float = bounded(0.1, 0, 1, below=True)
    smooth_bins: bool = True
    smooth_bandwidth: float = bounded(4.0, 0, 1e6, above=True)
    initializer_range: float = bounded(0.02, 0, 100, above=True)
    num_bumps: int = bounded(3, 1, 64)
    mean_weight: float = bounded(100.0, 0, 1e6)

    @property
    def layout_settings(self) -> tuple[int, Layout, int]:
        """What the tokenizer shares with the model."""
        return self.max_local_positions, self.layout, self.pool_patches

    def build(self, vocabulary: Vocabulary) -> Any:
        """The `GatoConfig`."""
        from gato.config import GatoConfig, preset

        ids: dict[str, Any] = {
            "vocab_size": vocabulary.size, "continuous_start": vocabulary.continuous.start,
            "image_token_id": vocabulary.image, "pad_token_id": vocabulary.pad, "discrete_start": vocabulary.discrete.start,
        }  # fmt: skip
        common = asdict(self)
        size = common.pop("size")
        if size is not None:
            for name in ("num_layers", "num_heads", "width", "head_width", "feed_forward", "positions"):
                common[name] = getattr(preset(size), name)
        return GatoConfig(**common, **ids)


@dataclass(frozen=True)
class OptimConfig(Settings):
    """- `learning_rate`: the maximum, reached after `warmup_steps` from `initial_learning_rate`.
    - `final_ratio`: the cosine ends at this share of the maximum, at the last update.
    - `clip`: largest norm of the whole gradient; the paper states none, 1.0 is our choice.
    - `muon`: the matrices of the transformer's layers are updated by Muon, at this multiple of the learning rate;
      with null AdamW updates everything, as in the paper.
    - `ema`: checkpoints act with an exponential moving average of the weights, of which each update keeps so much (less at first);
      null: with the last weights. What is learned does not depend on it.
    """

    section: ClassVar[str] = "optim"

    learning_rate: float = bounded(1e-4, 0, 100, above=True)
    initial_learning_rate: float = bounded(1e-7, 0, 100)
    warmup_steps: int = bounded(15_000, 0, MAX_COUNT)
    final_ratio: float = bounded(0.1, 0, 1)
    betas: tuple[float, float] = bounded((0.9, 0.95), 0, 1, below=True)
    eps: float = bounded(1e-8, 0, 1, above=True)
    weight_decay: float = bounded(0.1, 0, 100)
    clip: float = bounded(1.0, 0, 1e9, above=True)
    muon: float | None = bounded(None, 0, 1e6, above=True)
    ema: float | None = bounded(None, 0, 1, above=True, below=True)


@dataclass(frozen=True)
class TrainConfig(Settings):
    """- `steps`: updates; or `seconds`: of updates and the checkpoints between them. A short speed test picks the steps at first, then
      their number and the learning rate follow the clock (see `Schedule`).
    - `batch_size`: rows of the global batch; `micro_batch_size`: rows that a rank computes at a time (accumulation), 0 for all of its rows.
    - `save_every`: updates between checkpoints (the last is always saved as `final`); `keep`: how many stay.
    - `precision`: `auto` is bf16 on a GPU that has it and fp32 elsewhere, so that a CPU's results do not hang on which it is; `fastest`
      takes bf16 on a CPU too where a probe of one layer finds it faster, and records what it found.
    - `name`: the run's folder is `runs/NAME`; `seed`: of the weights and the data order.
    - `reduced_below`: fewer steps than this from the speed test are called a reduced budget.
    - `device`: `auto` takes cuda, else mps, else cpu; `threads`: of the CPU; `deterministic`: refuse operations that are not.
    - `deepspeed`: `zero1`, `zero2`, `zero3`, `zero3-offload` or a JSON file of ZeRO settings; null is DistributedDataParallel.
    - `timeout`: seconds that a rank waits for the others before the run ends.
    - `max_skipped`: so many updates in a row without a finite gradient end the run.
    - `report_to`: trackers beside `metrics.jsonl`: `tensorboard`, `wandb`, `trackio` or others that accelerate knows.
    - `peak_flops`: of a device in the precision used, for the MFU; null takes that of a known GPU.
    - `allow_changes`: settings that may differ when a run goes on, by name: `[optim.learning_rate]`, or `[optim]` for all of them.
    - `compile`: layers become kernels of their own at the start, which takes a minute and needs a C++ compiler on the CPU.
    - `recompute`: layers keep only their input and are computed again in the backward pass: less memory, a third more work.
    """

    section: ClassVar[str] = "train"

    name: str = text("run", RUN_NAME, "a folder's name of at most 60 letters, without / and not beginning with . or -")
    steps: int | None = bounded(None, 1, MAX_COUNT)
    seconds: float | None = bounded(None, 0, 1e9, above=True)
    reduced_below: int | None = bounded(None, 0, MAX_COUNT)
    batch_size: int = bounded(512, 1, 2**20)
    micro_batch_size: int = bounded(0, 0, 2**20)
    seed: int = bounded(0, 0, MAX_SEED)
    save_every: int = bounded(1000, 1, MAX_COUNT)
    keep: int = bounded(2, 1, MAX_COUNT)
    precision: str = choice("auto", ("auto", "fastest", "bf16", "fp32"))
    device: str = "auto"
    threads: int | None = bounded(None, 1, MAX_THREADS)
    deterministic: bool = False
    deepspeed: str | None = None
    timeout: float = bounded(600.0, 0, 1e7, above=True)
    max_skipped: int = bounded(10, 1, MAX_COUNT)
    report_to: str | None = None
    peak_flops: float | None = bounded(None, 0, 1e24, above=True)
    allow_changes: list[str] = field(default_factory=list)
    compile: bool = False
    recompute: bool = False

    def micro_batch(self, ranks: int) -> int:
        """Rows that a rank computes at a time."""
        return self.micro_batch_size or self.batch_size // ranks

    def describe_batch(self, ranks: int) -> str:
        """How an update's rows are spread, as in `512 rows an update: 8 ranks x 4 accumulated x 16 rows`."""
        rows = self.batch_size // ranks
        micro = min(self.micro_batch(ranks), rows)
        whole, rest = divmod(rows, micro)
        last = f", and once {rest}" if rest else ""
        return f"{self.batch_size} rows an update: {ranks} {'rank' if ranks == 1 else 'ranks'} x {whole} accumulated x {micro} rows{last}"


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """Everything a run of Gato is made of; a recipe is a YAML file of these. `learner`: `gato`, the default."""

    learner: str = choice("gato", ("gato",))
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        """**Raises:** `ValueError` for a mixture that makes no sense, before any file is opened."""
        check(self.data)


@dataclass(frozen=True)
class OneTaskRecipe(Settings):
    """What the recipes of learners of one task, or set of tasks, share; each names its `learner` and its model beside."""

    described: ClassVar[str]
    learned: ClassVar[str] = "task"

    learner: str
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        """**Raises:** `ValueError` for what has no sense or no use, before any file is opened."""
        _check_one_task(self.data, self.train, self.described, self.learned)


def check_frames(train: TrainConfig, frames: int | None, updates: int | None, learner: str) -> None:
    """**Raises:** `ValueError` where a run that plays is not as long as its frames say, which take so many updates."""
    if train.seconds is not None or (frames is None and train.steps is None):
        raise ValueError(f"{learner} counts frames; give env.frames, and leave out train.seconds")
    if frames is not None and train.steps != updates:
        raise ValueError(
            f"env.frames is {frames:,}, which takes {updates:,} updates, and train.steps is {train.steps:,}; leave one of them out"
        )


def check_unused(train: TrainConfig, learner: str) -> None:
    """**Raises:** `ValueError` for what only large models have a use for."""
    for name in ("compile", "recompute", "deepspeed"):
        if getattr(train, name):
            raise ValueError(f"train.{name} is {getattr(train, name)}, which {learner} has no use for; leave it out")


def _check_one_task(data: DataConfig, train: TrainConfig, learner: str, learned: str) -> None:
    check(data)
    if len(data.sources) != 1:
        raise ValueError(f"data.sources names {', '.join(data.sources)}; {learner} learns one {learned}: give one source")
    plain = DataConfig()
    for name in ("prompt_share", "loss_on_text_observations", "tokenizer", "temperature"):  # of tokens and mixtures
        if getattr(data, name) != getattr(plain, name):
            raise ValueError(f"data.{name} is {getattr(data, name)}, which {learner} has no use for; leave it out")
    for name in ("compile", "recompute"):
        if getattr(train, name):
            raise ValueError(f"train.{name} is true, which is for Gato; leave it out")
