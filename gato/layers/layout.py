"""The two ways in which tokens take positions; `tokenizers/episode.py` draws both."""

from __future__ import annotations

from typing import Any, Literal, get_args

Layout = Literal["gato", "compact"]
LAYOUTS: tuple[str, ...] = get_args(Layout)


def check_layouts(model: Any, tokenizer: Any) -> None:
    """Of a `GatoConfig` and an `EpisodeTokenizer`. **Raises:** `ValueError` if the layout of the weights is not the tokenizer's."""
    if model.layout != tokenizer.layout:
        raise ValueError(
            f"the weights are of layout '{model.layout}' but the tokenizer lays out tokens as '{tokenizer.layout}'; use the one saved with "
            "the weights"
        )
    if model.pool_patches != tokenizer.pool_patches:
        raise ValueError(
            f"the weights pool {model.pool_patches} x {model.pool_patches} patches but the tokenizer {tokenizer.pool_patches} x "
            f"{tokenizer.pool_patches}; use the one saved with the weights"
        )
