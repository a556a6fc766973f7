"""Episode -> TokenSequence and back: field order, separators, local positions, targets (section 2.2).

Two layouts of the same ids, here of a goal in words, three numbers and two motors, and of the same with a picture of two patches:

    gato     [go] [to] o_0 o_1 o_2 | a_0 a_1   [go] [to] o_0 o_1 o_2 | a_0 a_1     a position per token
    compact  [go] [to] (o_0 o_1 o_2 |) (a_0 a_1)   (o_0 o_1 o_2 |) (a_0 a_1)       a position per pair of brackets, else per token
             # # [go] [to] (o_0 o_1 o_2 |) (a_0 a_1)   # # [go] [to] (o_0 o_1 o_2 |) (a_0 a_1)

`gato` is the paper's: fields sorted by their keys. `compact` puts pictures first, then texts, then numbers; where there are no
pictures the texts stand only where one of them differs from that of the timestep before; a field of numbers is one position (a grid
of choices one for each row), which the separator joins, and so are all actions of a timestep, which are predicted together from the
position before. `pool_patches` has blocks of a picture's patches share a position, too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gato.batch import ACTION_LOCAL, NO_LOCAL, Kind, TokenSequence
from gato.episode import Episode, check_values
from gato.layers.history import without_repeated_texts
from gato.layers.layout import Layout
from gato.layers.numbers import ALL_BINS
from gato.spec import PATCH_SIZE, FieldSpec, Modality, TaskSpec

from . import continuous, discrete, image
from .columns import Column, laid_out
from .image import Blocks
from .text import END, TextTokenizer
from .vocabulary import Vocabulary

_KIND = {
    Modality.TEXT: Kind.TEXT,
    Modality.IMAGE: Kind.PATCH,
    Modality.DISCRETE: Kind.DISCRETE,
    Modality.CONTINUOUS: Kind.CONTINUOUS,
}
_COMPACT_ORDER = {Modality.IMAGE: 0, Modality.TEXT: 1, Modality.DISCRETE: 2, Modality.CONTINUOUS: 2}
_NUMBERS = (Modality.DISCRETE, Modality.CONTINUOUS)


class EpisodeTokenizer:
    """Turns episodes into token sequences, and action ids into actions.

    **Arguments:**

    - `text`: the SentencePiece model; `None` is enough where no field is text.
    - `vocabulary`: the id ranges; by default the ones that follow from the text tokenizer's size.
    - `loss_on_text_observations`: whether instructions count as targets (the paper's literal rule).
    - `max_local_positions`: rows of the model's table of local positions.
    - `layout`: `"gato"` or `"compact"`; `pool_patches`: in the compact one so many rows and columns of patches share a position where the
      task is an environment's.

    **Raises:** `ValueError` if the vocabulary does not belong to the text tokenizer.
    """

    def __init__(
        self,
        text: TextTokenizer | None,
        vocabulary: Vocabulary | None = None,
        loss_on_text_observations: bool = True,
        max_local_positions: int = 512,
        layout: Layout = "gato",
        pool_patches: int = 1,
    ) -> None:
        if vocabulary is None:
            vocabulary = Vocabulary.of(text.size) if text else Vocabulary()
        if text is not None and text.size != vocabulary.text_size:
            raise ValueError(
                f"the text tokenizer has {text.size} pieces but the vocabulary {vocabulary.text_size}; "
                "use the tokenizer that was saved with these weights"
            )
        self.text = text
        self.vocabulary = vocabulary
        self.loss_on_text_observations = loss_on_text_observations
        self.max_local_positions = max_local_positions
        self.layout: Layout = layout
        self.pool_patches = pool_patches

    # -- encode ----------------------------------------------------------------------------------

    def encode(self, episode: Episode, is_once: bool = True) -> TokenSequence:
        """All timesteps of an episode (or a window of one) as one document.

        **Arguments:** `is_once`: whether the compact layout leaves out texts that have not changed.
        """
        task, steps = episode.task, episode.num_timesteps
        tokens = self._sequence(task, episode.observations, episode.actions, steps)
        is_once = is_once and steps > 1 and self.layout == "compact" and any(self._stands_once(task, spec) for spec in task.observations)
        return without_repeated_texts(tokens) if is_once else tokens

    def encode_observation(self, task: TaskSpec, observations: Mapping[str, np.ndarray]) -> TokenSequence:
        """Observations (T, ...) with their separators, and no actions: what a policy is shown, each timestep with all of its texts.

        **Raises:** `ValueError` naming the field for values that an `Episode` would refuse.
        """
        num_timesteps = len(next(iter(observations.values())))
        for spec in task.observations:
            check_values(task.name, spec, observations[spec.name], num_timesteps)
        return self._sequence(task, observations, None, num_timesteps)

    def tokens_per_timestep(self, task: TaskSpec) -> int:
        """Tokens of one timestep, counting text as one: a lower bound, exact where there is no text."""
        return sum(spec.num_tokens or 1 for spec in task.fields) + (1 if task.observations else 0)

    def positions_per_timestep(self, task: TaskSpec) -> int:
        """Positions of one timestep: in the paper's layout its tokens; in the compact one without text that has not changed."""
        if self.layout == "gato":
            return self.tokens_per_timestep(task)
        texts = sum(a.modality is Modality.TEXT for a in task.actions)
        return self.positions_observed(task) + texts + (texts < len(task.actions))

    def positions_observed(self, task: TaskSpec) -> int:
        """The positions of a timestep before its action."""
        observed = [s for s in self.fields(task) if s.role == "observation"]
        if self.layout == "gato":
            return sum(spec.num_tokens or 1 for spec in observed) + bool(observed)
        numbers = sum(positions_of(s) for s in observed if s.modality in _NUMBERS)
        others = [s for s in observed if s.modality not in _NUMBERS and not self._stands_once(task, s)]
        has_bar = bool(observed) and observed[-1].modality not in _NUMBERS and self._blocks(task, observed[-1]) is None
        return numbers + sum(self._picture_positions(task, s) if s.modality is Modality.IMAGE else 1 for s in others) + has_bar

    @staticmethod
    def _stands_once(task: TaskSpec, spec: FieldSpec) -> bool:
        """Whether the compact layout leaves a text out while it stays the same. Beside pictures it is read in every one of them."""
        is_seen = any(s.modality is Modality.IMAGE for s in task.observations)
        return task.is_control and spec.modality is Modality.TEXT and spec.role == "observation" and not is_seen

    def _blocks(self, task: TaskSpec, spec: FieldSpec) -> Blocks | None:
        """How the patches of a picture share positions; `None` where each has its own."""
        is_pooled = self.pool_patches > 1 and spec.modality is Modality.IMAGE and _may_pool(task)
        return image.blocks(*spec.patched_size, self.pool_patches) if is_pooled else None

    def pooled(self, task: TaskSpec, most: int) -> EpisodeTokenizer:
        """This tokenizer with the fewest patches at a position with which no picture of the task takes more than `most` positions."""
        tokenizer = copy.copy(self)
        pictures = [s for s in task.observations if s.modality is Modality.IMAGE and _may_pool(task)]
        while any(tokenizer._picture_positions(task, s) > most for s in pictures):
            tokenizer.pool_patches += 1
        return tokenizer

    def patch_order(self, task: TaskSpec, spec: FieldSpec) -> np.ndarray:
        """(n,): the raster numbers of a picture's patches in the order of their tokens."""
        blocks = self._blocks(task, spec)
        return np.arange(spec.num_tokens or 0) if blocks is None else blocks.order

    def _picture_positions(self, task: TaskSpec, spec: FieldSpec) -> int:
        blocks = self._blocks(task, spec)
        return spec.num_tokens or 0 if blocks is None else int(blocks.starts.sum())

    def fields(self, task: TaskSpec) -> tuple[FieldSpec, ...]:
        """A task's fields in the order of their tokens."""
        if self.layout == "gato" or not task.is_control:
            return task.fields
        return (*sorted(task.observations, key=lambda spec: _COMPACT_ORDER[spec.modality]), *task.actions)

    def _sequence(
        self, task: TaskSpec, observations: Mapping[str, np.ndarray], actions: Mapping[str, np.ndarray] | None, steps: int
    ) -> TokenSequence:
        columns: list[Column] = []
        fields = self.fields(task)
        for spec in fields[: len(task.observations)]:
            columns.append(self._column(task, spec, observations[spec.name], columns))
        if task.observations or actions is None:
            columns.append(self._separator(steps, columns))
        for spec in task.actions if actions is not None else ():
            columns.append(self._column(task, spec, actions[spec.name], columns))  # type: ignore[index]
        arrays = laid_out(columns, steps)
        if (local := int(arrays["local_position"].max(initial=0))) >= self.max_local_positions:
            raise ValueError(
                f"task '{task.name}' has {local + 1} observation tokens in a timestep but the model has "
                f"{self.max_local_positions} local positions; use smaller pictures or raise max_local_positions"
            )
        patches, boxes = self._patches(task, observations)
        documents = np.zeros(len(arrays["ids"]), np.int16)
        return TokenSequence(**arrays, document=documents, patches=patches, patch_boxes=boxes, layout=self.layout)

    def _column(self, task: TaskSpec, spec: FieldSpec, values: np.ndarray, before: Sequence[Column]) -> Column:
        """A field's tokens, behind the columns `before`."""
        is_action, is_text = spec.role == "action", spec.modality is Modality.TEXT
        is_target = is_action or (is_text and self.loss_on_text_observations)
        is_compact, is_number = self.layout == "compact", spec.modality in _NUMBERS
        is_instruction = task.is_control and is_text and not is_action
        ids, counts = self.field_ids(spec, values)
        common: dict[str, Any] = {"kind": _KIND[spec.modality], "ids": ids.ravel(), "counts": counts}
        common |= {"side": spec.role, "is_target": is_target}
        if not is_compact:
            return Column(**common, local="counted" if task.is_control else None)
        local = None
        if is_number or (task.is_control and not is_instruction):
            local = sum(c.counts for c in before if c.side == "observation" and c.local is not None and isinstance(c.counts, int))
        if blocks := self._blocks(task, spec):
            return Column(**common, local=local, positions=tuple(blocks.starts.tolist()))
        if not is_number:
            return Column(**common, local=local)
        if not is_action:
            return Column(**common, local=local, positions=spec.size // positions_of(spec))
        shares = before and before[-1].side == "action" and before[-1].positions != "each"
        return Column(**common, local=local, positions="none" if shares else "one", legal=_legal(spec))

    def _separator(self, steps: int, before: Sequence[Column]) -> Column:
        ids = np.full(steps, self.vocabulary.separator, np.int32)
        shares = before and before[-1].positions != "each"
        return Column(Kind.SEPARATOR, ids, 1, None, False, None, "none" if shares else "each")

    def field_ids(self, spec: FieldSpec, values: np.ndarray) -> tuple[np.ndarray, int | np.ndarray]:
        """Ids of T timesteps, and how many each timestep has: one number, or (T,) where texts differ in length."""
        steps = len(values)
        if spec.modality is Modality.TEXT:
            return self._text_ids(spec, values)
        if spec.modality is Modality.IMAGE:
            ids = np.full((steps, spec.num_tokens or 0), self.vocabulary.image, np.int32)
        elif spec.modality is Modality.DISCRETE:
            ids = discrete.encode(spec, values, self.vocabulary).reshape(steps, spec.size)
        else:
            ids = continuous.encode(spec, values, self.vocabulary).reshape(steps, spec.size)
        return ids, ids.shape[1]

    def _text_ids(self, spec: FieldSpec, values: np.ndarray) -> tuple[np.ndarray, int | np.ndarray]:
        if self.text is None:
            raise ValueError(f"{spec.role} '{spec.name}' is text but no text tokenizer was given")
        ending = [END] if spec.role == "action" else []
        pieces = {text: self.text.encode(text) + ending for text in dict.fromkeys(values)}
        if len(pieces) == 1:  # an instruction holds for a whole episode
            (ids,) = pieces.values()
            return np.tile(np.array(ids, np.int32), len(values)), len(ids)
        lengths = np.array([len(pieces[text]) for text in values], np.int64)
        return np.array([i for text in values for i in pieces[text]], np.int32), lengths

    def _patches(self, task: TaskSpec, observations: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Patches in the order of their slots: timestep by timestep, field by field within each."""
        specs = [s for s in task.observations if s.modality is Modality.IMAGE]
        if not specs:
            return np.zeros((0, PATCH_SIZE, PATCH_SIZE, 3), np.uint8), np.zeros((0, 4), np.uint8)
        orders = [self.patch_order(task, s) for s in specs]
        pictures = [image.resize(s, np.asarray(observations[s.name])) for s in specs]
        per_field = [image.patchify(p)[:, order] for p, order in zip(pictures, orders, strict=True)]  # (T, n, 16, 16, 3)
        boxes = np.concatenate([image.patch_boxes(*s.patched_size)[order] for s, order in zip(specs, orders, strict=True)])
        patches = np.concatenate(per_field, axis=1)
        return patches.reshape(-1, PATCH_SIZE, PATCH_SIZE, 3), np.tile(boxes, (len(patches), 1))

    # -- decode ----------------------------------------------------------------------------------

    def legal_ids(self, task: TaskSpec) -> list[range]:
        """The ids that each action slot of a timestep may take, in order; for tasks without text actions."""
        slots = []
        for spec in task.actions:
            if spec.modality is Modality.CONTINUOUS:
                slots += [self.vocabulary.continuous] * spec.size
            elif spec.modality is Modality.DISCRETE:
                low, high = (b.ravel() for b in spec.bounds)
                first = self.vocabulary.discrete.start
                slots += [range(first, first + int(h - l) + 1) for l, h in zip(low, high, strict=True)]
            else:
                raise ValueError(f"action '{spec.name}' of task '{task.name}' is {spec.modality}, which has no fixed slots")
        return slots

    def decode_actions(self, task: TaskSpec, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Action ids (T, A) -> `{field name: values (T, *shape)}`. **Raises:** `ValueError` for an illegal id."""
        decoded, column = {}, 0
        for spec in task.actions:
            part = ids[:, column : column + spec.size].reshape(len(ids), *spec.shape)
            module = continuous if spec.modality is Modality.CONTINUOUS else discrete
            decoded[spec.name] = module.decode(spec, part, self.vocabulary)
            column += spec.size
        return decoded

    # -- look ------------------------------------------------------------------------------------

    def table(self, sequence: TokenSequence) -> list[dict[str, Any]]:
        """One row per token: position, timestep, kind, id, what it stands for, local position, target or not."""
        rows, patch = [], 0
        for i in range(len(sequence.ids)):
            kind, id_ = Kind(sequence.kind[i]), int(sequence.ids[i])
            if kind is Kind.PATCH:
                value = "rows {}-{} columns {}-{}".format(*sequence.patch_boxes[patch])
                patch += 1
            else:
                value = self._meaning(kind, id_)
            local = int(sequence.local_position[i])
            rows.append(
                {
                    "position": int(sequence.position[i]), "document": int(sequence.document[i]), "timestep": int(sequence.timestep[i]),
                    "kind": kind.name.lower(), "id": id_, "value": value,
                    "local position": {NO_LOCAL: "-", ACTION_LOCAL: "action"}.get(local, str(local)),
                    "target": bool(sequence.is_target[i]),
                }
            )  # fmt: skip
        return rows

    def _meaning(self, kind: Kind, id_: int) -> str:
        if kind is Kind.TEXT and self.text is not None:
            return self.text.piece(id_)
        if kind is Kind.DISCRETE:
            return str(id_ - self.vocabulary.discrete.start)
        if kind is Kind.CONTINUOUS:
            return f"{continuous.bin_centres(np.array(id_ - self.vocabulary.continuous.start)):+.4f}"
        return {Kind.SEPARATOR: "|", Kind.PAD: ""}.get(kind, "?")

    def show(self, sequence: TokenSequence) -> str:
        """Draws a sequence as text, one timestep a line: patches as #, separators as |, targets in [brackets], positions of several
        tokens in (parentheses)."""
        lines, current = [], None
        rows = self.table(sequence)
        shared = [a["position"] == b["position"] for a, b in pairwise(rows)]
        for row, joins, goes_on in zip(rows, [False, *shared], [*shared, False], strict=True):
            key = (row["document"], row["timestep"])
            if key != current:
                lines.append(f"{row['document']}.{row['timestep']:<4}")
                current = key
            mark = {"patch": "#", "separator": "|", "pad": "."}.get(row["kind"], row["value"])
            mark = f"[{mark}]" if row["target"] else mark
            lines[-1] += " " + "(" * (goes_on and not joins) + mark + ")" * (joins and not goes_on)
        return "\n".join(lines)


def _may_pool(task: TaskSpec) -> bool:
    """Whether pictures may share positions: where an environment is acted in or described, and not where a file is captioned."""
    return task.is_control or task.env_id is not None


def positions_of(spec: FieldSpec) -> int:
    """How many positions an observation's numbers take in the compact layout: one, a grid of choices one for each of its rows.

    What lies where in a grid is what matters, and one sum of all its cells hardly tells.
    """
    is_grid = spec.modality is Modality.DISCRETE and len(spec.shape) > 1
    return spec.shape[0] if is_grid else 1


def _legal(spec: FieldSpec) -> int | tuple[int, ...]:
    """How many ids each slot of an action may take."""
    if spec.modality is Modality.CONTINUOUS:
        return ALL_BINS
    low, high = spec.bounds
    counts = (high - low + 1).astype(int).ravel().tolist()
    return counts[0] if len(set(counts)) == 1 else tuple(counts)
