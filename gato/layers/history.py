"""What a stream has seen while a policy acts, and how it is fed to an empty cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gato.batch import Kind, TokenSequence

Parts = tuple[TokenSequence, ...]


@dataclass
class Stream:
    """What one stream has seen: whole timesteps of tokens, each in one part or several, and the tokens not yet in the cache.

    In the compact layout `timesteps` hold all texts, and what is fed only those that differ from the ones `said` last.
    """

    timesteps: list[Parts] = field(default_factory=list)
    num_prompt: int = 0  # of these timesteps, the first ones
    pending: list[TokenSequence] = field(default_factory=list)
    cached: int = 0  # positions in the cache, and with `rolling` those that have left it
    said: bytes | None = None
    said_at: int = 0
    generator: np.random.Generator | None = None


def num_positions(timestep: Parts) -> int:
    """All that it takes, but for the texts of the compact layout."""
    return sum(map(len, timestep)) - _num_said(timestep[0])


def _num_said(timestep: TokenSequence) -> int:
    """How many positions the texts take with which a timestep of the compact layout begins; 0 in the paper's."""
    if timestep.layout == "gato" or timestep.kind[0] != Kind.TEXT:
        return 0
    return int(np.argmax(timestep.kind != Kind.TEXT))


def spoken(stream: Stream, timesteps: Sequence[Parts]) -> list[TokenSequence]:
    """Timesteps as they are fed: without the texts that were `said` last."""
    fed: list[TokenSequence] = []
    for first, *rest in timesteps:
        if count := _num_said(first):
            texts = first.ids[:count].tobytes()
            if texts == stream.said:
                first = first.drop(count)
            else:
                stream.said = texts
                stream.said_at = stream.cached + sum(map(len, stream.pending)) + sum(map(len, fed))
        fed += [first, *rest]
    return fed


def spoken_anew(stream: Stream) -> list[TokenSequence]:
    """All timesteps as an empty cache is fed them: prompt and episode each begin with their texts, as in training."""
    stream.said = None
    prompt = spoken(stream, stream.timesteps[: stream.num_prompt])
    stream.said = None
    return prompt + spoken(stream, stream.timesteps[stream.num_prompt :])


def without_repeated_texts(tokens: TokenSequence) -> TokenSequence:
    """Of a sequence whose every timestep has its texts: without those that the timestep before has in the same document."""
    if not (tokens.kind == Kind.TEXT).any():
        return tokens
    starts = np.flatnonzero((np.diff(tokens.timestep, prepend=-1) != 0) | (np.diff(tokens.document, prepend=-1) != 0))
    keep, said, document = np.ones(len(tokens.ids), bool), b"", -1
    for start, stop in zip(starts, [*starts[1:], len(tokens.ids)], strict=True):
        count = int(np.argmax(tokens.kind[start:stop] != Kind.TEXT)) if tokens.kind[start] == Kind.TEXT else 0
        text = tokens.ids[start : start + count].tobytes()
        if count and text == said and tokens.document[start] == document:
            keep[start : start + count] = False
        said, document = text, tokens.document[start]
    return tokens.chosen(keep)
