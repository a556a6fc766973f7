"""Captions, answers and texts for clients: greedy captions that wait together share one batch, as `gato caption` writes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gato.agent import Agent
from gato.picture import pixels_of
from gato.setting import SEED, Limits, check_value

from .wire import MAX_TEXT, Refused

MAX_NEW_TOKENS = 1024
MAX_TEMPERATURE = 10.0
DEFAULTS = {"caption": 32, "generate": 64}  # new tokens, as the verbs have them

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """A text to be written: behind `text`, or about `picture` (bytes of a file), as an answer to `question` where there is one."""

    picture: bytes | None
    text: str | None
    question: str | None
    max_new_tokens: int
    temperature: float
    seed: int


def read_wish(verb: str, message: Mapping[str, Any], picture: bytes | None = None) -> Wish:
    """**Raises:** `Refused` for unknown names and values of another type or out of range."""
    known = {"caption": ("question",), "generate": ("text",)}[verb] + ("max_new_tokens", "temperature", "seed")
    if unknown := sorted(set(message) - set(known)):
        raise Refused(f"/{verb} has no setting '{unknown[0][:80]}'; known are {', '.join(known)}")
    for name in ("question", "text"):
        value = message.get(name)
        if value is not None and not isinstance(value, str):
            raise Refused(f"{name} is of type {type(value).__name__}, expected a text")
        if value is not None and len(value) > MAX_TEXT:
            raise Refused(f"the {name} has {len(value)} characters, at most {MAX_TEXT} are read")
    if verb == "generate" and not message.get("text"):
        raise Refused("text is missing: what the model goes on from")
    values = {name: message.get(name, default) for name, default in (("max_new_tokens", DEFAULTS[verb]), ("temperature", 0.0), ("seed", 0))}
    try:
        check_value("max_new_tokens", values["max_new_tokens"], int, Limits(1, MAX_NEW_TOKENS))
        check_value("temperature", values["temperature"], float, Limits(0, MAX_TEMPERATURE))
        check_value("seed", values["seed"], int, SEED)
    except ValueError as error:
        raise Refused(str(error)) from None
    return Wish(picture, message.get("text"), message.get("question"), **values)


def answer(agent: Agent, wishes: Sequence[Wish]) -> list[Any]:
    """A map, or an exception, for every wish."""
    answers: list[Any] = [None] * len(wishes)
    together: dict[tuple[bool, int], list[int]] = {}
    for i, wish in enumerate(wishes):
        if wish.picture is not None and wish.temperature == 0:
            together.setdefault((wish.question is None, wish.max_new_tokens), []).append(i)
        else:  # chance is drawn for a whole batch
            together[(wish.picture is None, -1 - i)] = [i]
    for indices in together.values():
        for i, found in zip(indices, _written(agent, [wishes[i] for i in indices]), strict=True):
            answers[i] = found
    return answers


def _written(agent: Agent, wishes: Sequence[Wish]) -> list[Any]:
    """Of wishes that are alike but for picture and question."""
    first = wishes[0]
    how: dict[str, Any] = {"max_new_tokens": first.max_new_tokens, "temperature": first.temperature, "seed": first.seed}
    try:
        if first.text is not None:
            text = agent.generate(first.text, **how)
            return [{"prompt": first.text, "continuation": text[len(first.text) :], "text": text}]
        pictures = [_picture(wish) for wish in wishes]
        seen = [picture for picture in pictures if isinstance(picture, np.ndarray)]
        if not seen:
            return pictures
        asked = [str(wish.question) for wish, picture in zip(wishes, pictures, strict=True) if isinstance(picture, np.ndarray)]
        texts = iter(agent.captions(seen, **how) if first.question is None else agent.answers(seen, asked, **how))
        return [{"caption": next(texts)} if isinstance(picture, np.ndarray) else picture for picture in pictures]
    except ValueError as error:
        if len(wishes) > 1:  # one question may be too long, the others not
            return [found for wish in wishes for found in _written(agent, [wish])]
        return [Refused(str(error))]
    except Exception as error:
        _log.error("words: %s: %s", type(error).__name__, " ".join(str(error).split()), exc_info=_log.isEnabledFor(10))
        return [error] * len(wishes)


def _picture(wish: Wish) -> Any:
    """Pixels, or why there are none."""
    assert wish.picture is not None, "only of wishes about a picture"
    try:
        return pixels_of(wish.picture)
    except ValueError as error:
        return Refused(str(error))
