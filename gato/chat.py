"""`gato chat`: a line in, the model's text out, piece by piece.

A document model knows nothing of turns: what is said before a line stands before it as text, as much as fits.
About a picture, every line is a question of its own, since the model was trained on one question at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from .agent import Agent

WELCOME = "A model of {millions:.1f}M parameters{about}. It continues what you write and knows little; an empty line ends."


def chat(agent: Agent, image: Path | None, max_new_tokens: int, temperature: float, seed: int) -> None:
    """Reads standard input line by line. **Raises:** `ValueError` if the checkpoint knows no text, or no questions for a picture."""
    from gato.data.captions import read_image

    picture = None if image is None else read_image(image)
    if picture is not None:
        agent.question_task()
    tokenizer = agent.text_tokenizer()
    if tokenizer is None:
        raise ValueError("this checkpoint was trained without text")
    room = agent.model.config.context_length - max_new_tokens
    if room < 2:
        raise ValueError(
            f"the context holds {room + max_new_tokens} tokens, so --max_new_tokens {max_new_tokens} leaves no room; ask for fewer"
        )
    about = f", asked about {image}" if image else ""
    print(WELCOME.format(millions=sum(p.numel() for p in agent.model.parameters()) / 1e6, about=about))
    from transformers import TextStreamer

    history: list[int] = []
    for line in _lines():
        if picture is not None:
            print(agent.answer(picture, line, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed))
            continue
        ids = tokenizer.text.encode(line)
        if len(ids) >= room:
            print(f"(that is {len(ids)} pieces, but {room - 1} fit; say it in fewer words)")
            continue
        history = [*history, *ids][-(room - 1) :]
        told = tokenizer.text.decode(history)
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        history = tokenizer.text.encode(agent.generate(told, max_new_tokens, temperature, seed, streamer) + "\n")


def _lines() -> Iterator[str]:
    """Lines until an empty one; the prompt is shown on a terminal only."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline().rstrip("\n")
        if not line.strip():
            return
        yield line
