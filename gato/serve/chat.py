"""`gato chat`: a line in, the model's text out, piece by piece.

A document model knows nothing of turns: what was said before a line stands before it as text, as many whole turns as fit.
About a picture, every line is a question of its own, since the model was trained on one question at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from gato.agent import Agent

WELCOME = "A model of {millions:.1f}M parameters{about}. It continues what you write and knows little; an empty line ends."


class Conversation:
    """What was said, as much of it as the context holds beside `max_new_tokens` pieces more.

    **Raises:** `ValueError` if the checkpoint knows no text, or its context leaves no room.
    """

    def __init__(self, agent: Agent, max_new_tokens: int) -> None:
        if agent.tokenizer.text is None:
            raise ValueError("this checkpoint was trained without text")
        context = agent.model.config.context_length
        if context - max_new_tokens < 2:
            raise ValueError(f"the context holds {context} tokens, so {max_new_tokens} new ones leave no room; ask for fewer")
        self._text, self._room = agent.tokenizer.text, context - max_new_tokens
        self._turns: list[str] = []

    def say(self, line: str) -> str:
        """The text for the model to continue; the oldest turns that no longer fit are forgotten.

        **Raises:** `ValueError` if the line alone does not fit; nothing is forgotten then.
        """
        pieces = len(self._text.encode(line))
        if pieces > self._room:
            raise ValueError(f"that is {pieces} pieces, but {self._room} fit; say it in fewer words")
        turns = [*self._turns, line]
        while len(self._text.encode("".join(turns))) > self._room:
            turns.pop(0)
        self._turns = turns
        return "".join(turns)

    def hear(self, reply: str) -> None:
        """Ends the turn that `say` began with what the model wrote."""
        self._turns[-1] += reply + "\n"


def chat(agent: Agent, image: str | None, max_new_tokens: int, temperature: float, seed: int) -> None:
    """Reads standard input line by line. **Raises:** `ValueError` if the checkpoint knows no text, or no questions for a picture."""
    from transformers import TextStreamer

    from gato.picture import pixels_of

    picture = None if image is None else pixels_of(image)
    if picture is not None:
        agent.question_task()
    conversation, words = Conversation(agent, max_new_tokens), agent.text_tokenizer()
    assert words is not None, "a conversation needs text"
    about = f", asked about {image}" if image else ""
    print(WELCOME.format(millions=sum(p.numel() for p in agent.model.parameters()) / 1e6, about=about))
    for line in _lines():
        if picture is not None:
            print(agent.answer(picture, line, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed))
            continue
        try:
            told = conversation.say(line)
        except ValueError as error:  # the conversation goes on
            print(f"({error})")
            continue
        streamer = TextStreamer(words, skip_prompt=True, skip_special_tokens=True)
        conversation.hear(agent.generate(told, max_new_tokens, temperature, seed, streamer)[len(told) :])


def _lines() -> Iterator[str]:
    """Lines until an empty one; the prompt is shown on a terminal only."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline().rstrip("\n")
        if not line.strip():
            return
        yield line
