"""The two ways in which tokens take positions; `tokenizers/episode.py` draws both."""

from __future__ import annotations

from typing import Literal, get_args

Layout = Literal["gato", "compact"]
LAYOUTS: tuple[str, ...] = get_args(Layout)


def check_layouts(model: str, tokenizer: str) -> None:
    """**Raises:** `ValueError` if the layout of the model's weights is not the tokenizer's."""
    if model != tokenizer:
        raise ValueError(
            f"the weights are of layout '{model}' but the tokenizer lays out tokens as '{tokenizer}'; use the one saved with the weights"
        )
