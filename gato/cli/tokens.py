"""`gato tokenize`: values typed on the command line, or one timestep of a stored episode, as tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gato.spec import FieldSpec, Modality
from gato.tokenizers import continuous, discrete
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from gato.data.store import Store


def tokenize(options: Any, store: Store | None = None) -> list[dict[str, Any]]:
    """Rows for `gato tokenize`.

    **Arguments:** `options`: the verb's (kind, role, low, high, decode, checkpoint, episode, timestep,
    values); `store`: for the kind `episode`.

    **Raises:** `ValueError` for values that are no numbers, or text without a tokenizer.
    """
    tokenizer = _tokenizer(options.checkpoint, options.kind)
    if options.kind == "episode":
        assert store is not None
        return _timestep(tokenizer, store, options.episode, options.timestep)
    if options.kind == "text":
        return _text(tokenizer, options.values, options.decode)
    return _numbers(tokenizer.vocabulary, options)


def _tokenizer(checkpoint: Any, kind: str) -> EpisodeTokenizer:
    if checkpoint is not None:
        from gato.description import Description, check_gato

        check_gato(checkpoint, "say what tokens are")
        return Description.load(checkpoint).tokenizer
    from gato.data.stores import stores_folder

    path = stores_folder() / "tokenizer.model"
    if kind == "text" or (kind == "episode" and path.is_file()):
        text = TextTokenizer.load(path)
        # the layout that training with this tokenizer would use
        return EpisodeTokenizer(text, Vocabulary.of(text.size))
    return EpisodeTokenizer(None, Vocabulary())


def _numbers(vocabulary: Vocabulary, options: Any) -> list[dict[str, Any]]:
    try:
        numbers = np.array([float(v) for v in options.values])
    except ValueError as error:
        raise ValueError(f"{error}; {'ids' if options.decode else options.kind + ' values'} are numbers") from None
    if (outside := numbers[~(np.abs(numbers) < 2.0**53)]).size:  # above that, float64 skips whole numbers
        raise ValueError(f"{outside[0]} is {'too large' if np.isfinite(outside[0]) else 'not finite, and such values are refused'}")
    if options.kind == "discrete":
        spec = FieldSpec("value", Modality.DISCRETE, options.role, dtype="int64", low=(0,), high=(1023,))
        module: Any = discrete
    else:
        is_action = options.role == "action"
        spec = FieldSpec(
            "value", Modality.CONTINUOUS, options.role, dtype="float64",
            low=(options.low,) if is_action else None, high=(options.high,) if is_action else None,
        )  # fmt: skip
        module = continuous
    if options.decode or options.kind == "discrete":
        if (numbers != np.floor(numbers)).any():
            raise ValueError(f"{numbers[numbers != np.floor(numbers)][0]} is not a whole number")
        numbers = numbers.astype(np.int64)
    if options.decode:
        return [{"id": int(i), "value": v.item()} for i, v in zip(numbers, module.decode(spec, numbers, vocabulary), strict=True)]
    ids = module.encode(spec, numbers, vocabulary)
    back = module.decode(spec, ids, vocabulary)
    return [{"value": v.item(), "id": int(i), "decodes to": b.item()} for v, i, b in zip(numbers, ids, back, strict=True)]


def _text(tokenizer: EpisodeTokenizer, values: list[str], decode: bool) -> list[dict[str, Any]]:
    assert tokenizer.text is not None
    if decode:
        return [{"ids": " ".join(values), "text": tokenizer.text.decode([int(v) for v in values])}]
    ids = tokenizer.text.encode(" ".join(values))
    return [{"position": i, "piece": tokenizer.text.piece(id_), "id": id_} for i, id_ in enumerate(ids)]


def _timestep(tokenizer: EpisodeTokenizer, store: Store, index: int, timestep: int) -> list[dict[str, Any]]:
    if not 0 <= index < store.num_episodes:
        raise ValueError(f"the store has episodes 0 to {store.num_episodes - 1}, not {index}")
    if not 0 <= timestep < int(store.lengths[index]):
        raise ValueError(f"episode {index} has timesteps 0 to {int(store.lengths[index]) - 1}, not {timestep}")
    episode = store.episode(index, timestep, timestep + 1)
    rows = tokenizer.table(tokenizer.encode(episode))
    names = _field_names(tokenizer, episode)
    return [
        {"position": row["position"], "kind": row["kind"], "field": name, "value": row["value"], "id": row["id"],
         "local position": row["local position"], "target": "yes" if row["target"] else ""}
        for row, name in zip(rows, names, strict=True)
    ]  # fmt: skip


def _field_names(tokenizer: EpisodeTokenizer, episode: Any) -> list[str]:
    """The field behind each token of a one-timestep episode."""
    names: list[str] = []
    for spec in tokenizer.fields(episode.task):
        values = (episode.observations if spec.role == "observation" else episode.actions)[spec.name]
        if spec.role == "action" and "|" not in names and episode.task.observations:
            names.append("|")
        names += [spec.name] * int(np.ravel(tokenizer.field_ids(spec, values)[1])[0])
    return names
