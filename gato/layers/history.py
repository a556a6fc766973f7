"""What a stream has seen while a policy acts, and how it is fed to an empty cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gato.batch import Kind, TokenSequence

Parts = tuple[TokenSequence, ...]
_TEXT = int(Kind.TEXT)


@dataclass
class Stream:
    """What one stream has seen: whole timesteps of tokens, each in one part or several, and the tokens not yet in the cache.

    In the compact layout `timesteps` hold all texts, and what is fed only those that together differ from the ones of the timestep before,
    `said`, as in training (`without_repeated_texts`).
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
    """Timesteps as they are fed: without the texts that were `said`, all of them together."""
    fed: list[TokenSequence] = []
    for first, *rest in timesteps:
        if count := _num_said(first):
            texts = first.ids[:count].tobytes()
            if texts == stream.said:
                first = first.drop(count)
            else:
                stream.said = texts
                stream.said_at = stream.cached + sum(map(len, stream.pending)) + sum(map(len, fed))
        else:
            stream.said = b""  # a timestep of empty texts: they are said again when they come back
        fed += [first, *rest]
    return fed


def spoken_anew(stream: Stream) -> list[TokenSequence]:
    """All timesteps as an empty cache is fed them: prompt and episode each begin with their texts, as in training."""
    stream.said = None
    prompt = spoken(stream, stream.timesteps[: stream.num_prompt])
    stream.said = None
    return prompt + spoken(stream, stream.timesteps[stream.num_prompt :])


def without_repeated_texts(tokens: TokenSequence) -> TokenSequence:
    """Of a sequence whose every timestep begins with its texts, if any, and goes on: without those of the timestep before.

    That is, where all texts together are those of the timestep before in the same document.
    """
    is_text = tokens.kind == _TEXT
    if not is_text.any():
        return tokens
    is_first = np.ones(len(is_text), bool)
    is_first[1:] = (tokens.timestep[1:] != tokens.timestep[:-1]) | (tokens.document[1:] != tokens.document[:-1])
    starts, others = np.flatnonzero(is_first), np.flatnonzero(~is_text)
    counts = others[np.searchsorted(others, starts)] - starts  # of the texts with which a timestep begins
    document = tokens.document[starts]
    may_repeat = (counts[1:] == counts[:-1]) & (counts[1:] > 0) & (document[1:] == document[:-1])
    before, now, count = starts[:-1][may_repeat], starts[1:][may_repeat], counts[1:][may_repeat]
    if not len(count):
        return tokens
    firsts = np.cumsum(count) - count
    within = np.arange(firsts[-1] + count[-1]) - np.repeat(firsts, count)
    place = np.repeat(now, count) + within
    is_new = tokens.ids[place] != tokens.ids[np.repeat(before, count) + within]
    keep = np.ones(len(is_text), bool)
    keep[place] = np.repeat(np.logical_or.reduceat(is_new, firsts), count)
    return tokens.chosen(keep)
