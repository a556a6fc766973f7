"""The id ranges of the one shared table. Only this file knows an offset (Gato, section 2.1).

The 32k layout: text [0, 32000), continuous [32000, 33024), separator 33024, pad 33025, image slot
33026. Discrete values lie literally in [0, 1024) and share those rows with text, as in the paper;
this is harmless because decoding is always restricted to the legal ids of a slot.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gato.spec import NUM_BINS, NUM_DISCRETE_VALUES


@dataclass(frozen=True)
class Vocabulary:
    """Python `range` objects for every kind of token.

    **Arguments:**

    - `text_size`: number of SentencePiece pieces; the other ranges follow behind it.
    - `discrete_offset`: id of the discrete value 0. The default 0 is the paper's literal overlap with
      text; pass `Vocabulary.separate_discrete(...)` to give discrete values a range of their own.

    **Raises:** `ValueError` if the text range is too small to hold the discrete values.
    """

    text_size: int = 32000
    discrete_offset: int = 0

    def __post_init__(self) -> None:
        overlaps_text = 0 <= self.discrete_offset <= self.text_size - NUM_DISCRETE_VALUES
        if not (overlaps_text or self.discrete_offset > self.image):
            raise ValueError(
                f"discrete ids [{self.discrete_offset}, {self.discrete_offset + NUM_DISCRETE_VALUES}) neither fit into "
                f"{self.text_size} text ids nor lie behind the image slot {self.image}; set discrete_offset to {self.image + 1}"
            )

    @classmethod
    def of(cls, text_size: int) -> Vocabulary:
        """The paper's overlap where the discrete values fit into the text, else a range of their own for them."""
        return cls(text_size) if text_size >= NUM_DISCRETE_VALUES else cls.separate_discrete(text_size)

    @classmethod
    def separate_discrete(cls, text_size: int) -> Vocabulary:
        """Discrete values in a range of their own behind everything else."""
        return cls(text_size, discrete_offset=text_size + NUM_BINS + 3)

    @property
    def continuous(self) -> range:
        return range(self.text_size, self.text_size + NUM_BINS)

    @property
    def discrete(self) -> range:
        return range(self.discrete_offset, self.discrete_offset + NUM_DISCRETE_VALUES)

    @property
    def separator(self) -> int:
        return self.text_size + NUM_BINS

    @property
    def pad(self) -> int:
        return self.text_size + NUM_BINS + 1

    @property
    def image(self) -> int:
        return self.text_size + NUM_BINS + 2

    @property
    def size(self) -> int:
        """One past the last id in use."""
        return max(self.image, self.discrete[-1]) + 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
