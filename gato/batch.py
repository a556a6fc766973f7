"""Containers of tokens: one sequence (NumPy, in the data workers) and a batch of them (torch).

    timestep 0                                    timestep 1
    o_0 o_1 [patch] [patch] o_4  |  a_0 a_1       o_0 o_1 ...          ids, kind
     0   1     2       3     4   -  act act        0   1               local_position
     .   .     .       .     .   .   T   T         .   .               is_target

Observations come first, then the separator, then the actions (Gato, section 2.2). Targets are action
tokens and text. A row may hold several documents; attention never crosses from one to another.

In the paper's layout every token has a position of its own. In the compact one (`tokenizers/episode.py`) the numbers of a
field share a position, and so do all actions of a timestep. Lengths count positions: rows are cut and filled by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gato.layers.layout import Layout
from gato.layers.numbers import Numbers, number_arrays

from .spec import PATCH_SIZE

if TYPE_CHECKING:
    import torch

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
    """The tokens of one row. Its length is the number of positions that they take.

    **Arguments** (NumPy, leading axis the tokens unless said otherwise):

    - `ids` int32: the image slot's id where a patch stands.
    - `kind` uint8: `Kind`.
    - `local_position` int32: index among its timestep's observation tokens; `ACTION_LOCAL` for action
      tokens, `NO_LOCAL` for separators, documents and captions.
    - `timestep` int32: counted from the first timestep of the document.
    - `document` int16: tokens attend only within their document; padding has -1.
    - `is_target` bool: text and action tokens.
    - `patches` uint8 (N, 16, 16, 3), `patch_boxes` uint8 (N, 4): in the order of the patch slots.
    - `position` int32: ascending from 0; by default every token has its own.
    - `legal` int16: how many ids a discrete action may take, `ALL_BINS` for a continuous one; else, and by default, 0.
    - `layout`: `"gato"` or `"compact"`.
    """

    ids: np.ndarray
    kind: np.ndarray
    local_position: np.ndarray
    timestep: np.ndarray
    document: np.ndarray
    is_target: np.ndarray
    patches: np.ndarray
    patch_boxes: np.ndarray
    position: np.ndarray = field(default=None)  # type: ignore[assignment,arg-type]  # made below
    legal: np.ndarray = field(default=None)  # type: ignore[assignment,arg-type]
    layout: Layout = "gato"

    def __post_init__(self) -> None:
        if self.position is None:
            object.__setattr__(self, "position", np.arange(len(self.ids), dtype=np.int32))
        if self.legal is None:
            object.__setattr__(self, "legal", np.zeros(len(self.ids), np.int16))
        lengths = [len(getattr(self, name)) for name in _PER_TOKEN]
        assert len(set(lengths)) == 1, f"arrays of one sequence differ in length: {dict(zip(_PER_TOKEN, lengths, strict=True))}"
        slots = np.count_nonzero(self.kind == _PATCH)
        assert slots == len(self.patches) == len(self.patch_boxes), (
            f"{slots} patch slots, {len(self.patches)} patches, {len(self.patch_boxes)} boxes"
        )

    def __len__(self) -> int:
        return int(self.position[-1]) + 1 if len(self.position) else 0

    def cut(self, length: int) -> TokenSequence:
        """The first `length` positions and the patches among them."""
        return self if length >= len(self) else self._part(0, self._token(length))

    def drop(self, length: int) -> TokenSequence:
        """All but the first `length` positions and the patches among those."""
        return self._part(self._token(length), len(self.ids))

    def chosen(self, keep: np.ndarray) -> TokenSequence:
        """The tokens where `keep` is True, all or none of those that share a position, and never only some of a document's patches."""
        kept = np.flatnonzero(keep)  # by which several arrays are read faster than by `keep`
        arrays = {name: getattr(self, name)[kept] for name in _PER_TOKEN}
        is_kept, position = keep[self.kind == _PATCH], arrays["position"]
        is_next = np.zeros(len(kept), bool)
        is_next[1:] = position[1:] != position[:-1]
        arrays["position"] = np.cumsum(is_next, dtype=np.int32)
        return replace(self, **arrays, patches=self.patches[is_kept], patch_boxes=self.patch_boxes[is_kept])

    def without_targets(self) -> TokenSequence:
        """The same, to be read and not to be learned."""
        return replace(self, is_target=np.zeros_like(self.is_target))

    def by_timestep(self) -> list[TokenSequence]:
        """Takes the sequence apart at its timesteps."""
        starts = np.flatnonzero(np.diff(self.timestep, prepend=-1))
        ends = [*starts[1:], len(self.ids)]
        return [self._part(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]

    def _token(self, position: int) -> int:
        """The first token at or behind a position."""
        return int(np.searchsorted(self.position, position))

    def _part(self, start: int, stop: int) -> TokenSequence:
        """The tokens from `start` to `stop`, the first and the last of a position."""
        before, within = (np.count_nonzero(self.kind[s] == _PATCH) for s in (slice(start), slice(start, stop)))
        arrays = {name: getattr(self, name)[start:stop] for name in _PER_TOKEN}
        if start < stop:
            arrays["position"] = arrays["position"] - arrays["position"][0]
        part = slice(before, before + within)
        return TokenSequence(**arrays, patches=self.patches[part], patch_boxes=self.patch_boxes[part], layout=self.layout)

    @cached_property
    def is_number(self) -> np.ndarray:
        """bool: tokens that the compact layout pools."""
        return (self.kind == int(Kind.CONTINUOUS)) | (self.kind == int(Kind.DISCRETE))

    @property
    def is_predicted(self) -> np.ndarray:
        """bool: targets that have a position of the same document before their own to be predicted from."""
        starts = np.ones(len(self.document), bool)
        starts[1:] = self.document[1:] != self.document[:-1]
        firsts = self.position[starts]
        return self.is_target & (self.position != firsts[np.cumsum(starts) - 1])


_PER_TOKEN = ("ids", "kind", "local_position", "timestep", "document", "is_target", "position", "legal")


def join(sequences: Sequence[TokenSequence], same_document: bool) -> TokenSequence:
    """One row out of several sequences.

    With `same_document` (a prompt before its episode) timesteps go on counting and attention sees all;
    otherwise each sequence stays a document of its own.
    """
    if len(sequences) == 1:
        return sequences[0]
    arrays = {name: np.concatenate([getattr(s, name) for s in sequences]) for name in (*_PER_TOKEN, "patches", "patch_boxes")}
    counts = [len(s.ids) for s in sequences]
    # each sequence goes on counting where the one before it stopped
    for counter in ("position", "timestep" if same_document else "document"):
        ends = np.cumsum([0] + [int(getattr(s, counter)[-1]) + 1 for s in sequences[:-1]])
        arrays[counter] += np.repeat(ends, counts).astype(arrays[counter].dtype)
    return TokenSequence(**arrays, layout=sequences[0].layout)


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
    - `first_patches` int64 (U,), `patch_of` int64 (N,): where equal patches first stand among `patches`, and of each patch which of these
      it is; views of a world of tiles are mostly repeats, and each is embedded once. `None` where all differ.
    - `numbers`: in the compact layout the tokens that share positions, packed over the batch, actions among them; `labels` are
      then those of text alone, `ids` the pad's at a position of numbers, and L counts positions. `None` in the paper's layout.
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
    first_patches: torch.Tensor | None = None
    patch_of: torch.Tensor | None = None
    numbers: Numbers | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_tokens(self) -> int:
        """Positions that are not padding; in the paper's layout the tokens."""
        return int((self.document >= 0).sum())

    def inputs(self) -> dict[str, torch.Tensor | Numbers | None]:
        """What `Gato.forward` sees, by the names of its arguments; labels and weights are no part of it."""
        return {
            "input_ids": self.ids, "local_positions": self.local_position, "pixel_values": self.patches, "patch_boxes": self.patch_boxes,
            "patch_index": self.patch_index, "first_patches": self.first_patches, "patch_of": self.patch_of,
            "document_ids": self.document if self.is_packed else None, "numbers": self.numbers,
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
        first, patch_of = self.first_patches, self.patch_of
        if first is not None and patch_of is not None:
            first, patch_of = F.pad(first, (0, -len(first) % patches)), F.pad(patch_of, (0, more_patches))
        return replace(
            self,
            target_index=F.pad(self.target_index, (0, more_targets)),
            patches=F.pad(self.patches, (0, 0, 0, 0, 0, 0, 0, more_patches)),
            patch_boxes=F.pad(self.patch_boxes, (0, 0, 0, more_patches)),
            patch_index=F.pad(self.patch_index, (0, more_patches), value=self.ids.numel()),
            first_patches=first,
            patch_of=patch_of,
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
    """Pads rows to `context_length` and packs their patches, and in the compact layout their numbers.

    **Raises:** `ValueError` for a row longer than the context.
    """
    import torch

    longest = max(len(row) for row in rows)
    if longest > context_length:
        unit = "tokens" if rows[0].layout == "gato" else "positions"
        raise ValueError(f"a row has {longest} {unit} but the context holds {context_length}; cut it first")
    arrays = padded(rows, context_length, pad_id)
    slots = patch_places(rows, context_length)
    patches = np.concatenate([row.patches for row in rows])
    boxes = np.concatenate([row.patch_boxes for row in rows])
    if len(patches) == 0:
        patches, boxes = np.zeros((1, PATCH_SIZE, PATCH_SIZE, 3), np.uint8), np.zeros((1, 4), np.uint8)
        slots = np.array([arrays["ids"].size])
    first, patch_of = repeats(patches)
    row_weights = np.ones(len(rows), np.float32) if weights is None else np.asarray(weights, np.float32)
    numbers = pack_numbers(rows, context_length) if rows[0].layout == "compact" else None
    targets = (arrays["labels"] >= 0).sum(axis=1) + (0 if numbers is None else numbers.targets_by_row(len(rows), context_length))
    return TokenBatch(
        **{name: torch.from_numpy(values) for name, values in arrays.items()},
        weights=torch.from_numpy(row_weights),
        sources=torch.zeros(len(rows), dtype=torch.int64) if sources is None else torch.as_tensor(sources),
        patches=torch.from_numpy(np.ascontiguousarray(patches)),
        patch_boxes=torch.from_numpy(boxes.astype(np.int64)),
        target_index=torch.from_numpy(np.flatnonzero(arrays["labels"] >= 0)),
        patch_index=torch.from_numpy(slots),
        depth_noise=None if depth_noise is None else torch.from_numpy(depth_noise.astype(np.float32)),
        denominator=float((targets * row_weights).sum()),
        is_packed=any(row.document[-1] > 0 for row in rows),
        first_patches=None if first is None else torch.from_numpy(first),
        patch_of=None if patch_of is None else torch.from_numpy(patch_of),
        numbers=numbers,
    )


def padded(rows: Sequence[TokenSequence], length: int, pad_id: int) -> dict[str, np.ndarray]:
    """What stands at each position, (B, L) int64 each: `ids`, `kind`, `local_position`, `document`, `labels`.

    Of a position that several tokens share the kind is the last one's, so that the separator shows, and the place the first one's.
    """
    fill = {"ids": pad_id, "kind": int(Kind.PAD), "local_position": NO_LOCAL, "document": -1, "labels": -100}
    arrays = {name: np.full((len(rows), length), value, np.int64) for name, value in fill.items()}
    for b, row in enumerate(rows):
        n = len(row)
        first: Any  # an index of each position's first token, and of its last
        last: Any
        if row.layout == "gato":
            first = last = slice(None)
            labels, ids = np.where(row.is_predicted, row.ids, -100), row.ids
        else:
            first = np.flatnonzero(np.diff(row.position, prepend=-1))
            last = np.append(first[1:], len(row.ids)) - 1
            labels = np.where(row.is_predicted & ~row.is_number, row.ids, -100)
            ids = np.where(row.is_number, pad_id, row.ids)
        for name, values in (("ids", ids[last]), ("kind", row.kind[last]), ("labels", labels[last])):
            arrays[name][b, :n] = values
        for name in ("local_position", "document"):
            arrays[name][b, :n] = getattr(row, name)[first]
    return arrays


def repeats(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Where equal ones of `patches` (N, ...) first stand (U,), and which of those each patch is (N,); no arrays if all differ."""
    numbers: dict[bytes, int] = {}
    patch_of = np.array([numbers.setdefault(patch.tobytes(), len(numbers)) for patch in patches], np.int64)
    if len(numbers) == len(patches):
        return None, None
    return np.unique(patch_of, return_index=True)[1].astype(np.int64), patch_of


def patch_places(rows: Sequence[TokenSequence], length: int) -> np.ndarray:
    """(N,) int64: the flat places of the patches of rows that are padded to `length` positions."""
    return np.concatenate([b * length + row.position[row.kind == _PATCH].astype(np.int64) for b, row in enumerate(rows)])


def pack_numbers(rows: Sequence[TokenSequence], length: int) -> Numbers:
    """The numbers of rows in the compact layout, padded to `length` positions, on the host."""
    parts = []
    for b, row in enumerate(rows):
        chosen = row.is_number
        tokens = {name: getattr(row, name)[chosen] for name in ("ids", "document", "timestep", "legal", "is_predicted")}
        local = row.local_position[chosen]
        tokens |= {"place": local, "is_action": local == ACTION_LOCAL, "row": np.full(len(local), b)}
        parts.append(tokens | {"position": b * length + row.position[chosen].astype(np.int64)})
    return number_arrays({name: np.concatenate([p[name] for p in parts]) for name in parts[0]}, len(rows) * length)
