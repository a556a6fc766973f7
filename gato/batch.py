"""Containers of tokens: one sequence (NumPy, in the data workers) and a batch of them (torch).

    timestep 0                                    timestep 1
    o_0 o_1 [patch] [patch] o_4  |  a_0 a_1       o_0 o_1 ...          ids, kind
     0   1     2       3     4   -  act act        0   1               local_position
     .   .     .       .     .   .   T   T         .   .               is_target

Observations come first, then the separator, then the actions (Gato, section 2.2). Targets are action
tokens and text. A row may hold several documents; attention never crosses from one to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from .spec import PATCH_SIZE

if TYPE_CHECKING:
    import torch

NUM_BINS = 1024  # of a continuous value
NUM_POSITION_BINS = 128  # of a patch's place in its picture, along each side
NO_LOCAL = -1
ACTION_LOCAL = -2
TARGET_BUCKET, PATCH_BUCKET = 1024, 256


class Kind(IntEnum):
    """What a position of a sequence holds."""

    TEXT = 0
    PATCH = 1
    DISCRETE = 2
    CONTINUOUS = 3
    SEPARATOR = 4
    PAD = 5


_PATCH = int(Kind.PATCH)  # NumPy compares with an integer several times faster than with an enumeration


@dataclass(frozen=True)
class TokenSequence:
    """L tokens of one row.

    **Arguments** (NumPy, leading axis L unless said otherwise):

    - `ids` int32: the image slot's id where a patch stands.
    - `kind` uint8: `Kind`.
    - `local_position` int16: index among its timestep's observation tokens; `ACTION_LOCAL` for action
      tokens, `NO_LOCAL` for separators, documents and captions.
    - `timestep` int32: counted from the first timestep of the document.
    - `document` int16: tokens attend only within their document; padding has -1.
    - `is_target` bool: text and action tokens.
    - `patches` uint8 (N, 16, 16, 3), `patch_boxes` uint8 (N, 4): in the order of the patch slots.
    """

    ids: np.ndarray
    kind: np.ndarray
    local_position: np.ndarray
    timestep: np.ndarray
    document: np.ndarray
    is_target: np.ndarray
    patches: np.ndarray
    patch_boxes: np.ndarray

    def __post_init__(self) -> None:
        lengths = [len(getattr(self, name)) for name in _PER_TOKEN]
        assert len(set(lengths)) == 1, f"arrays of one sequence differ in length: {dict(zip(_PER_TOKEN, lengths, strict=True))}"
        slots = np.count_nonzero(self.kind == _PATCH)
        assert slots == len(self.patches) == len(self.patch_boxes), (
            f"{slots} patch slots, {len(self.patches)} patches, {len(self.patch_boxes)} boxes"
        )

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, length: int) -> TokenSequence:
        """The first `length` tokens and the patches among them."""
        if length >= len(self):
            return self
        num_patches = np.count_nonzero(self.kind[:length] == _PATCH)
        return TokenSequence(
            **{name: getattr(self, name)[:length] for name in _PER_TOKEN},
            patches=self.patches[:num_patches],
            patch_boxes=self.patch_boxes[:num_patches],
        )

    def drop(self, length: int) -> TokenSequence:
        """All but the first `length` tokens and the patches among those."""
        num_patches = np.count_nonzero(self.kind[:length] == _PATCH)
        return TokenSequence(
            **{name: getattr(self, name)[length:] for name in _PER_TOKEN},
            patches=self.patches[num_patches:],
            patch_boxes=self.patch_boxes[num_patches:],
        )

    @property
    def is_predicted(self) -> np.ndarray:
        """(L,) bool: targets that have a token of the same document before them to be predicted from."""
        predicted = self.is_target.copy()
        predicted[0] = False
        predicted[1:] &= self.document[1:] == self.document[:-1]
        return predicted


_PER_TOKEN = ("ids", "kind", "local_position", "timestep", "document", "is_target")


def join(sequences: Sequence[TokenSequence], same_document: bool) -> TokenSequence:
    """One row out of several sequences.

    With `same_document` (a prompt before its episode) timesteps go on counting and attention sees all;
    otherwise each sequence stays a document of its own.
    """
    if len(sequences) == 1:
        return sequences[0]
    arrays = {f.name: np.concatenate([getattr(s, f.name) for s in sequences]) for f in fields(TokenSequence)}
    counter = "timestep" if same_document else "document"  # each sequence goes on counting where the one before it stopped
    ends = np.cumsum([0] + [int(getattr(s, counter)[-1]) + 1 for s in sequences[:-1]])
    arrays[counter] += np.repeat(ends, [len(s) for s in sequences]).astype(arrays[counter].dtype)
    return TokenSequence(**arrays)


@dataclass(frozen=True)
class TokenBatch:
    """B rows of L tokens; patches are packed over the whole batch.

    **Arguments** (torch):

    - `ids`, `kind`, `local_position`, `document`: (B, L) int64.
    - `labels` (B, L) int64: the id where a position is a target that something precedes, else -100.
    - `weights` (B,) float32: the loss weight of each row's source.
    - `sources` (B,) int64: index of each row's source in the mixture.
    - `patches` uint8 (N, 16, 16, 3) with N >= 1: a batch without pictures carries one spare patch whose
      embedding is not used, so that the image embedder takes part in every step on every rank.
    - `patch_boxes` int64 (N, 4); in training boxes of width zero at the drawn position.
    - `target_index` int64 (K,), `patch_index` int64 (N,): the flat places (b * L + l) of the labels that are targets, and of
      the patches. Found on the host, where it is free; a GPU would have to be waited for. Entries that only fill a
      buffer (`bucketed`) are 0, where no label ever is, and B * L, behind the last place.
    - `depth_noise` (B, K) float32 in [0, 1): decides stochastic depth, or `None` for no drop.
    - `denominator`: weighted targets of the whole global batch this one is a part of.
    - `is_packed`: whether any row holds more than one document.
    """

    ids: torch.Tensor
    kind: torch.Tensor
    local_position: torch.Tensor
    document: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    sources: torch.Tensor
    patches: torch.Tensor
    patch_boxes: torch.Tensor
    target_index: torch.Tensor
    patch_index: torch.Tensor
    depth_noise: torch.Tensor | None
    denominator: float | torch.Tensor
    is_packed: bool

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.document >= 0).sum())

    def inputs(self) -> dict[str, torch.Tensor | None]:
        """What `Gato.forward` sees, by the names of its arguments; labels and weights are no part of it."""
        return {
            "input_ids": self.ids, "local_positions": self.local_position, "pixel_values": self.patches, "patch_boxes": self.patch_boxes,
            "patch_index": self.patch_index, "document_ids": self.document if self.is_packed else None,
        }  # fmt: skip

    def pin_memory(self) -> TokenBatch:
        """The same batch in memory that a GPU reads by itself; data loaders call this."""
        return replace(self, **{f.name: value.pin_memory() for f in fields(self) if hasattr(value := getattr(self, f.name), "pin_memory")})

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on `device`, on a GPU `bucketed`; from pinned memory nobody waits for the copy."""
        import torch

        moved = {}
        for f in fields(self):
            value = getattr(self, f.name)
            moved[f.name] = value.to(device, non_blocking=True) if hasattr(value, "to") else value
        batch = TokenBatch(**moved)
        return batch.bucketed() if torch.device(device).type == "cuda" else batch

    def bucketed(self, targets: int = TARGET_BUCKET, patches: int = PATCH_BUCKET) -> TokenBatch:
        """The same batch with as many spare targets and patches as fill up a multiple of these numbers.

        A GPU then sees few different shapes: its memory is reused, and nothing is compiled again for another number of targets.
        """
        import torch.nn.functional as F

        more_targets, more_patches = -len(self.target_index) % targets, -len(self.patches) % patches
        return replace(
            self,
            target_index=F.pad(self.target_index, (0, more_targets)),
            patches=F.pad(self.patches, (0, 0, 0, 0, 0, 0, 0, more_patches)),
            patch_boxes=F.pad(self.patch_boxes, (0, 0, 0, more_patches)),
            patch_index=F.pad(self.patch_index, (0, more_patches), value=self.ids.numel()),
        )

    def with_denominator(self, denominator: float | torch.Tensor) -> TokenBatch:
        return replace(self, denominator=denominator)


def collate(
    rows: Sequence[TokenSequence],
    context_length: int,
    pad_id: int,
    sources: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    depth_noise: np.ndarray | None = None,
) -> TokenBatch:
    """Pads rows to `context_length` and packs their patches.

    **Raises:** `ValueError` for a row longer than the context.
    """
    import torch

    longest = max(len(row) for row in rows)
    if longest > context_length:
        raise ValueError(f"a row has {longest} tokens but the context holds {context_length}; cut it first")
    shape = (len(rows), context_length)
    arrays = {
        "ids": np.full(shape, pad_id, np.int64),
        "kind": np.full(shape, Kind.PAD, np.int64),
        "local_position": np.full(shape, NO_LOCAL, np.int64),
        "document": np.full(shape, -1, np.int64),
        "labels": np.full(shape, -100, np.int64),
    }
    for b, row in enumerate(rows):
        for name in ("ids", "kind", "local_position", "document"):
            arrays[name][b, : len(row)] = getattr(row, name)
        arrays["labels"][b, : len(row)] = np.where(row.is_predicted, row.ids, -100)
    slots = np.flatnonzero(arrays["kind"] == _PATCH)
    patches = np.concatenate([row.patches for row in rows])
    boxes = np.concatenate([row.patch_boxes for row in rows])
    if len(patches) == 0:
        patches, boxes = np.zeros((1, PATCH_SIZE, PATCH_SIZE, 3), np.uint8), np.zeros((1, 4), np.uint8)
        slots = np.array([arrays["ids"].size])
    row_weights = np.ones(len(rows), np.float32) if weights is None else np.asarray(weights, np.float32)
    return TokenBatch(
        **{name: torch.from_numpy(values) for name, values in arrays.items()},
        weights=torch.from_numpy(row_weights),
        sources=torch.zeros(len(rows), dtype=torch.int64) if sources is None else torch.as_tensor(sources),
        patches=torch.from_numpy(np.ascontiguousarray(patches)),
        patch_boxes=torch.from_numpy(boxes.astype(np.int64)),
        target_index=torch.from_numpy(np.flatnonzero(arrays["labels"] >= 0)),
        patch_index=torch.from_numpy(slots),
        depth_noise=None if depth_noise is None else torch.from_numpy(depth_noise.astype(np.float32)),
        denominator=float(((arrays["labels"] >= 0).sum(axis=1) * row_weights).sum()),
        is_packed=any(row.document[-1] > 0 for row in rows),
    )
