"""What a recipe says: the sections of its YAML file, `model`, `data`, `optim` and `train`.

Nothing here imports torch, so that a wrong key is refused before the seconds that takes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..data.mixture_config import DataConfig
from ..tokenizers.vocabulary import Vocabulary

PositionScheme = Literal["rope", "transformer_xl", "learned"]  # those of `gato.transformer`, which imports torch


@dataclass(frozen=True)
class ModelConfig:
    """The architecture: a `size` of the paper (`gato-79m`, `gato-364m`, `gato-1b`, each with a `-rope` twin), or the numbers.

    The vocabulary follows from the tokenizer. See `GatoConfig` for the fields.
    """

    size: str | None = None
    num_layers: int = 4
    num_heads: int = 4
    width: int = 128
    head_width: int = 32
    feed_forward: int = 512
    positions: PositionScheme = "rope"
    context_length: int = 1024
    max_local_positions: int = 512
    patch_channels: int = 32
    drop_path: float = 0.1
    smooth_bins: bool = True
    smooth_bandwidth: float = 4.0
    initializer_range: float = 0.02

    def build(self, vocabulary: Vocabulary) -> Any:
        """The `GatoConfig`."""
        from gato.config import GatoConfig, preset

        ids: dict[str, Any] = {
            "vocab_size": vocabulary.size, "continuous_start": vocabulary.continuous.start,
            "image_token_id": vocabulary.image, "pad_token_id": vocabulary.pad,
        }  # fmt: skip
        common = asdict(self)
        size = common.pop("size")
        if size is not None:
            for name in ("num_layers", "num_heads", "width", "head_width", "feed_forward", "positions"):
                common[name] = getattr(preset(size), name)
        return GatoConfig(**common, **ids)


@dataclass(frozen=True)
class OptimConfig:
    """- `learning_rate`: the maximum, reached after `warmup_steps` from `initial_learning_rate`.
    - `final_ratio`: the cosine ends at this share of the maximum, at the last update.
    - `clip`: largest norm of the whole gradient; the paper states none, 1.0 is our choice.
    - `muon`: the matrices of the transformer's layers are updated by Muon, at this multiple of the learning rate;
      with null AdamW updates everything, as in the paper.
    """

    learning_rate: float = 1e-4
    initial_learning_rate: float = 1e-7
    warmup_steps: int = 15_000
    final_ratio: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    muon: float | None = None

    def __post_init__(self) -> None:
        if self.muon is not None and not self.muon > 0:
            raise ValueError(f"optim.muon is {self.muon}, expected a multiple of the learning rate above zero, or null for AdamW alone")


@dataclass(frozen=True)
class TrainConfig:
    """- `steps`: updates; or `seconds`: a training time, from which a short speed test picks the steps.
    - `batch_size`: rows of the global batch; `micro_batch_size`: rows that a rank computes at a time (accumulation), 0 for all of its rows.
    - `save_every`: updates between checkpoints (the last is always saved as `final`); `keep`: how many stay.
    - `precision`: `auto` is bf16 on a GPU that has it and fp32 elsewhere.
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

    name: str = "run"
    steps: int | None = None
    seconds: float | None = None
    reduced_below: int | None = None
    batch_size: int = 512
    micro_batch_size: int = 0
    seed: int = 0
    save_every: int = 1000
    keep: int = 2
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    deterministic: bool = False
    deepspeed: str | None = None
    timeout: float = 600.0
    max_skipped: int = 10
    report_to: str | None = None
    peak_flops: float | None = None
    allow_changes: list[str] = field(default_factory=list)
    compile: bool = False
    recompute: bool = False

    def micro_batch(self, ranks: int) -> int:
        """Rows that a rank computes at a time."""
        return self.micro_batch_size or self.batch_size // ranks


@dataclass(frozen=True)
class PretrainConfig:
    """Everything a run is made of; a recipe is a YAML file of these."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
