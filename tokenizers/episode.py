"""Episode -> TokenSequence and back: field order, separators, local positions, targets (section 2.2).

There is no Python loop over values, patches or timesteps: each field gives its tokens for all
timesteps at once, and they are scattered to their places in the flat sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from gato.batch import ACTION_LOCAL, NO_LOCAL, Kind, TokenSequence
from gato.episode import Episode, check_values
from gato.spec import PATCH_SIZE, FieldSpec, Modality, TaskSpec

from . import continuous, discrete, image
from .text import END, TextTokenizer
from .vocabulary import Vocabulary

_KIND = {
    Modality.TEXT: Kind.TEXT,
    Modality.IMAGE: Kind.PATCH,
    Modality.DISCRETE: Kind.DISCRETE,
    Modality.CONTINUOUS: Kind.CONTINUOUS,
}


class EpisodeTokenizer:
    """Turns episodes into token sequences, and action ids into actions.

    **Arguments:**

    - `text`: the SentencePiece model; `None` is enough where no field is text.
    - `vocabulary`: the id ranges; by default the ones that follow from the text tokenizer's size.
    - `loss_on_text_observations`: whether instructions count as targets (the paper's literal rule).
    - `max_local_positions`: rows of the model's table of local positions.

    **Raises:** `ValueError` if the vocabulary does not belong to the text tokenizer.
    """

    def __init__(
        self,
        text: TextTokenizer | None,
        vocabulary: Vocabulary | None = None,
        loss_on_text_observations: bool = True,
        max_local_positions: int = 512,
    ) -> None:
        if vocabulary is None:
            vocabulary = Vocabulary(text.size) if text else Vocabulary()
        if text is not None and text.size != vocabulary.text_size:
            raise ValueError(
                f"the text tokenizer has {text.size} pieces but the vocabulary {vocabulary.text_size}; "
                "use the tokenizer that was saved with these weights"
            )
        self.text = text
        self.vocabulary = vocabulary
        self.loss_on_text_observations = loss_on_text_observations
        self.max_local_positions = max_local_positions

    # -- encode ----------------------------------------------------------------------------------

    def encode(self, episode: Episode) -> TokenSequence:
        """All timesteps of an episode (or a window of one) as one document."""
        return self._sequence(episode.task, episode.observations, episode.actions, episode.num_timesteps)

    def encode_observation(self, task: TaskSpec, observations: Mapping[str, np.ndarray]) -> TokenSequence:
        """Observations (T, ...) with their separators, and no actions: what a policy is shown.

        **Raises:** `ValueError` naming the field for values that an `Episode` would refuse.
        """
        num_timesteps = len(next(iter(observations.values())))
        for spec in task.observations:
            check_values(task.name, spec, observations[spec.name], num_timesteps)
        return self._sequence(task, observations, None, num_timesteps)

    def encode_actions(self, task: TaskSpec, actions: Mapping[str, np.ndarray]) -> np.ndarray:
        """The action ids of T timesteps, (T, A) int32; for tasks without text actions."""
        columns = [self._field_ids(spec, actions[spec.name])[0] for spec in task.actions]
        return np.concatenate([c.reshape(len(c), -1) for c in columns], axis=1)

    def tokens_per_timestep(self, task: TaskSpec) -> int:
        """Tokens of one timestep, counting text as one: a lower bound, exact where there is no text."""
        return sum(spec.num_tokens or 1 for spec in task.fields) + (1 if task.observations else 0)

    def _sequence(
        self, task: TaskSpec, observations: Mapping[str, np.ndarray], actions: Mapping[str, np.ndarray] | None, steps: int
    ) -> TokenSequence:
        specs = task.observations + (task.actions if actions is not None else ())
        columns = []  # (kind, is_target, is_action, ids flat, tokens per timestep: one number or (T,)) in canonical order
        for i, spec in enumerate(specs):
            is_action = spec.role == "action"
            if i == len(task.observations) and task.observations:
                columns.append(self._separator(steps))
            ids, counts = self._field_ids(spec, (actions if is_action else observations)[spec.name])  # type: ignore[index]
            target = is_action or (spec.modality is Modality.TEXT and self.loss_on_text_observations)
            columns.append((_KIND[spec.modality], target, is_action, ids.ravel(), counts))
        if actions is None:
            columns.append(self._separator(steps))
        patches, boxes = self._patches(task, observations)
        is_even = all(isinstance(c[4], int) for c in columns)
        ids, kind, local, is_target, timestep = (_even if is_even else _ragged)(columns, steps, task.is_control)
        if local.max(initial=0) >= self.max_local_positions:
            raise ValueError(
                f"task '{task.name}' has {int(local.max()) + 1} observation tokens in a timestep but the model has "
                f"{self.max_local_positions} local positions; use smaller pictures or raise max_local_positions"
            )
        return TokenSequence(
            ids=ids, kind=kind, local_position=local, timestep=timestep,
            document=np.zeros(len(ids), np.int16), is_target=is_target, patches=patches, patch_boxes=boxes,
        )  # fmt: skip

    def _separator(self, steps: int) -> tuple:
        ids = np.full(steps, self.vocabulary.separator, np.int32)
        return Kind.SEPARATOR, False, None, ids, 1

    def _field_ids(self, spec: FieldSpec, values: np.ndarray) -> tuple[np.ndarray, int | np.ndarray]:
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
        per_field = [image.patchify(image.resize(s, np.asarray(observations[s.name]))) for s in specs]  # (T, n, 16, 16, 3)
        boxes = np.concatenate([image.patch_boxes(*s.patched_size) for s in specs])
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
        for i in range(len(sequence)):
            kind, id_ = Kind(sequence.kind[i]), int(sequence.ids[i])
            if kind is Kind.PATCH:
                value = "rows {}-{} columns {}-{}".format(*sequence.patch_boxes[patch])
                patch += 1
            else:
                value = self._meaning(kind, id_)
            local = int(sequence.local_position[i])
            rows.append(
                {
                    "position": i, "document": int(sequence.document[i]), "timestep": int(sequence.timestep[i]),
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
        """Draws a sequence as text, one timestep a line: patches as #, separators as |, targets in [brackets]."""
        lines, current = [], None
        for row in self.table(sequence):
            key = (row["document"], row["timestep"])
            if key != current:
                lines.append(f"{row['document']}.{row['timestep']:<4}")
                current = key
            mark = {"patch": "#", "separator": "|", "pad": "."}.get(row["kind"], row["value"])
            lines[-1] += " " + (f"[{mark}]" if row["target"] else mark)
        return "\n".join(lines)


# -- layout ----------------------------------------------------------------------------------------


def _even(columns: list[tuple], steps: int, is_control: bool) -> tuple[np.ndarray, ...]:
    """Ids, kinds, local positions, targets and timesteps of T timesteps that all have the same number of tokens."""
    kind, local, target = _timestep_layout(tuple((*c[:3], c[4]) for c in columns), is_control)
    ids = np.concatenate([c[3].reshape(steps, c[4]) for c in columns], axis=1).ravel()
    timestep = np.repeat(np.arange(steps, dtype=np.int32), len(kind))
    return ids, np.tile(kind, steps), np.tile(local, steps), np.tile(target, steps), timestep


@lru_cache(maxsize=1024)
def _timestep_layout(parts: tuple[tuple[Kind, bool, bool | None, int], ...], is_control: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kinds, local positions and targets of one timestep, from its fields' kind, target, side (`None`: separator) and tokens."""
    counts = [p[3] for p in parts]
    kind = np.repeat(np.array([p[0] for p in parts], np.uint8), counts)
    target = np.repeat(np.array([p[1] for p in parts], bool), counts)
    local = np.full(len(kind), NO_LOCAL, np.int16)
    if is_control:
        is_observation, is_action = (np.repeat([p[2] is side for p in parts], counts) for side in (False, True))
        local[is_observation] = np.flatnonzero(is_observation)
        local[is_action] = ACTION_LOCAL
    return kind, local, target


def _ragged(columns: list[tuple], steps: int, is_control: bool) -> tuple[np.ndarray, ...]:
    """The same for timesteps whose texts differ in length: each field's tokens are scattered to their places."""
    per_field = np.stack([np.broadcast_to(c[4], steps) for c in columns])  # (fields, T)
    in_timestep = np.cumsum(per_field, axis=0) - per_field
    totals = per_field.sum(axis=0)
    starts = np.cumsum(totals) - totals
    length = int(totals.sum())
    ids, kind = np.empty(length, np.int32), np.empty(length, np.uint8)
    local, target = np.full(length, NO_LOCAL, np.int16), np.zeros(length, bool)
    for (field_kind, field_target, is_action, field_ids, _), counts, offset in zip(columns, per_field, in_timestep, strict=True):
        within = np.arange(len(field_ids)) - np.repeat(np.cumsum(counts) - counts, counts)
        local_index = np.repeat(offset, counts) + within
        place = np.repeat(starts, counts) + local_index
        ids[place], kind[place], target[place] = field_ids, field_kind, field_target
        if is_control and is_action is not None:
            local[place] = ACTION_LOCAL if is_action else local_index
    return ids, kind, local, target, np.repeat(np.arange(steps, dtype=np.int32), totals)
