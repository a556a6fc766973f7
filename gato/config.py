"""The architecture of a Gato: sizes, position scheme, where the kinds of ids lie; and the paper's three sizes by name."""

from __future__ import annotations

import math
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from gato.layers.layout import LAYOUTS

from .disk import shown
from .spec import NUM_BINS

MAX_SIZE = 2**24  # of ids, positions, and widths: a configuration comes from a file, and must not make us allocate at its word
_NUMBERS: dict[str, tuple[int, int]] = {
    "vocab_size": (1, MAX_SIZE), "continuous_start": (0, MAX_SIZE), "image_token_id": (0, MAX_SIZE),
    "num_layers": (1, 1024), "num_heads": (1, 2**12), "width": (1, 2**16), "head_width": (1, 2**12), "feed_forward": (2, 2**20),
    "context_length": (1, MAX_SIZE), "max_local_positions": (1, MAX_SIZE), "patch_channels": (32, 2**14),
    "discrete_start": (0, MAX_SIZE), "num_bumps": (1, 64), "pool_patches": (1, 64),
}  # fmt: skip
_SCHEMES = ("rope", "transformer_xl", "learned")


class GatoConfig(PreTrainedConfig):
    """The architecture.

    Sizes follow the paper's table (appendix C): `num_layers`, `num_heads`, `width`, `head_width`, and
    `feed_forward`, GEGLU's hidden size counting both halves. `positions` is `rope`, `transformer_xl` (the
    scheme that reproduces the published parameter counts) or `learned`. The vocabulary fields repeat
    what `Vocabulary` says: ids in use, the continuous range, the image slot. With `smooth_bins` the
    continuous rows start smooth in the bin's value.

    `layout` is the paper's, `gato`, or `compact`: one position for a field of numbers and one for all actions of a timestep
    (`tokenizers/episode.py`). It has weights of its own (`gato/layers/compact.py`), and for them alone there are `discrete_start`,
    where discrete values lie, `pool_patches`, by which so many rows and columns of a picture's patches share a position where the
    task is an environment's, `num_bumps`, of which a continuous action's distribution is made, and `mean_weight`, of the
    squared error of their means beside its cross-entropy. The context then counts positions.

    **Raises:** `ValueError` naming a field that no model can have.
    """

    model_type = "gato"
    keys_to_ignore_at_inference = ["cache", "past_key_values", "hidden_states", "token_losses", "token_index", "token_counts"]
    attribute_map = {
        "hidden_size": "width",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "feed_forward",
        "max_position_embeddings": "context_length",
    }

    vocab_size: int = 33027
    continuous_start: int = 32000
    image_token_id: int = 33026
    num_layers: int = 8
    num_heads: int = 24
    width: int = 768
    head_width: int = 32
    feed_forward: int = 3072
    positions: str = "rope"
    context_length: int = 1024
    max_local_positions: int = 512
    patch_channels: int = 32
    layout: str = "gato"
    pool_patches: int = 1
    discrete_start: int = 0
    num_bumps: int = 3
    mean_weight: float = 100.0
    drop_path: float = 0.1
    dropout: float = 0.0
    smooth_bins: bool = True
    smooth_bandwidth: float = 4.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    is_decoder: bool = True
    use_cache: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 33025

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name, (low, high) in _NUMBERS.items():
            self._expect(name, type(v := getattr(self, name)) is int and low <= v <= high, f"a whole number from {low} to {high}")
        for name in ("drop_path", "dropout"):
            self._expect(name, _is_finite(v := getattr(self, name)) and 0 <= v < 1, "a number from 0 to below 1")
        for name in ("smooth_bandwidth", "initializer_range", "mean_weight"):
            self._expect(name, _is_finite(v := getattr(self, name)) and v >= 0, "a number of at least 0")
        for name in ("smooth_bins", "use_cache"):
            self._expect(name, isinstance(getattr(self, name), bool), "true or false")
        self._expect("tie_word_embeddings", self.tie_word_embeddings is True, "true: the token table is the head, too")
        self._expect("positions", self.positions in _SCHEMES, f"one of {', '.join(_SCHEMES)}")
        self._expect("layout", self.layout in LAYOUTS, f"one of {', '.join(LAYOUTS)}")
        may_pool = self.layout == "compact"
        self._expect("pool_patches", self.pool_patches == 1 or may_pool, "a whole number from 1 to 64, which above 1 needs layout: compact")
        self._expect("head_width", self.head_width % 2 == 0 or self.positions != "rope", "an even number for rope")
        self._expect("width", self.width % 2 == 0 or self.positions != "transformer_xl", "an even number for transformer_xl")
        self._expect("feed_forward", self.feed_forward % 2 == 0, "an even number, since GEGLU has two halves")
        self._expect("patch_channels", self.patch_channels % 32 == 0, "a multiple of the 32 groups that normalise it")
        last = self.vocab_size - 1
        self._expect("continuous_start", self.continuous_start + NUM_BINS <= self.vocab_size, f"{NUM_BINS} ids before {self.vocab_size}")
        fits = self.discrete_start + NUM_BINS <= self.vocab_size or self.layout == "gato"
        self._expect("discrete_start", fits, f"{NUM_BINS} ids before {self.vocab_size}")
        self._expect("image_token_id", self.image_token_id <= last, f"an id from 0 to {last}")
        for name in ("bos_token_id", "pad_token_id", "eos_token_id"):
            ids = v if isinstance(v := getattr(self, name), list) and name == "eos_token_id" else [v]
            are_ids = all(i is None or (type(i) is int and 0 <= i <= last) for i in ids)
            self._expect(name, are_ids, f"an id from 0 to {last}, or null")

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} is {shown(getattr(self, name))}, expected {expected}")

    @property
    def table_rows(self) -> int:
        """Rows of the token table: the vocabulary rounded up to a multiple of 128; spare rows are never legal."""
        return -(-self.vocab_size // 128) * 128

    @property
    def unwritable_ids(self) -> list[int]:
        """Ids that no text holds: unk, bos, and all behind the text pieces. `generate` never chooses one."""
        return [0, 1, *range(self.continuous_start, self.vocab_size)]


_SIZES = {  # the paper's table: blocks, heads, width, key size, feed-forward
    "gato-79m": (8, 24, 768, 32, 3072),
    "gato-364m": (12, 12, 1536, 128, 6144),
    "gato-1b": (24, 16, 2048, 128, 8192),
}


def preset(name: str) -> GatoConfig:
    """`gato-79m`, `gato-364m`, `gato-1b` (relative attention, the paper's counts) or their `-rope` twins.

    **Raises:** `ValueError` for another name.
    """
    base = name.removesuffix("-rope")
    if base not in _SIZES:
        known = [n + suffix for n in _SIZES for suffix in ("", "-rope")]
        raise ValueError(f"no model size '{name}'; known are {', '.join(known)}")
    layers, heads, width, head_width, feed_forward = _SIZES[base]
    positions = "rope" if name.endswith("-rope") else "transformer_xl"
    return GatoConfig(
        num_layers=layers, num_heads=heads, width=width, head_width=head_width, feed_forward=feed_forward, positions=positions
    )


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
