"""What the page of `gato demo` can do, without the page: every method is one visitor's request.

Requests share one model. Text is written in a thread that holds the model's lock until it is done, and comes out
piece by piece; a policy holds it for one action at a time, so that nobody waits for an episode to end.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import count
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

import numpy as np

from gato.agent import Agent, Candidate
from gato.episode import Episode
from gato.spec import TaskSpec

MAX_NEW_TOKENS = 48
MAX_QUESTION = 500  # characters
MAX_TEXT = 4000  # characters of a text to continue
MAX_TIMESTEPS = 500
FRAMES_PER_SECOND = 12


@dataclass(frozen=True)
class Description:
    """- `text`: of a caption or an answer so far; the rest is there when it is complete.
    - `candidates`: the likeliest of four beams, or of four samples.
    - `attention`: a PIL picture, see `gato.eval.insight.attention.draw_overlay`; `maps`: one of all layers and heads.
    """

    text: str
    candidates: tuple[Candidate, ...] = ()
    attention: Any = None
    maps: Any = None


@dataclass(frozen=True)
class Timestep:
    """- `frame` uint8 (rows, columns, 3): the environment when the action was chosen.
    - `rows`: the timestep's tokens as `EpisodeTokenizer.table` has them; `patches` (N, 16, 16, 3) uint8.
    - `total_reward`: after the action; `ending`: how the episode ended, "" while it goes on.
    """

    index: int
    frame: np.ndarray
    rows: list[dict[str, Any]]
    patches: np.ndarray
    total_reward: float
    ending: str


class Demo:
    """**Arguments:** `agent`.

    **Attributes:** `captions`, `answers`, `writes`: whether the checkpoint was trained for it; `worlds`: names of its
    control tasks whose simulators are installed here, `missing`: of the others.

    All methods raise `ValueError` with the line to show for what they refuse.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.captions = agent.picture_task(num_texts=0) is not None and agent.tokenizer.text is not None
        self.answers = agent.picture_task(num_texts=1) is not None and agent.tokenizer.text is not None
        self.writes = any(not task.observations and not task.is_control for task in agent.tasks.values())
        self.worlds, self.missing = _worlds(agent)
        self._model, self._seeds = Lock(), count()

    def describe(self, picture: bytes, question: str = "", temperature: float = 0.0) -> Iterator[Description]:
        """The caption, or the answer where there is a question, as it is written; then once more with all that belongs to it."""
        from gato.eval.insight.attention import caption_attention, draw_maps, draw_overlay

        _check(temperature)
        asked = _said("question", question, MAX_QUESTION) if question.strip() else None
        if asked is None and not self.captions:
            raise ValueError("this checkpoint was trained to answer questions, not to caption; ask one")
        sampling: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "temperature": temperature, "seed": self._seed(temperature)}
        if asked is None:
            written = self._written(lambda streamer: self.agent.caption(picture, streamer=streamer, **sampling))
        else:
            written = self._written(lambda streamer: self.agent.answer(picture, asked, streamer=streamer, **sampling))
        said = ""
        for said in written:
            yield Description(said)
        with self._model:
            (found,) = self.agent.candidates([picture], 4, None if asked is None else [asked], include=[said], **sampling)
            seen = caption_attention(self.agent, picture, said, asked)
        yield Description(said, tuple(found), draw_overlay(seen), draw_maps(seen))

    def write(self, text: str, temperature: float = 0.0) -> Iterator[str]:
        """`text` with what the model writes after it, as it is written."""
        text, seed = _said("text", text, MAX_TEXT), self._seed(temperature)
        _check(temperature)
        written = self._written(lambda streamer: self.agent.generate(text, MAX_NEW_TOKENS, temperature, seed, streamer)[len(text) :])
        yield from (text + so_far for so_far in written)

    def reply(self, turns: list[tuple[str, str]], line: str, temperature: float = 0.0) -> Iterator[str]:
        """The reply to `line` after pairs of lines and replies, as it is written."""
        from .chat import Conversation

        _check(temperature)
        conversation = Conversation(self.agent, MAX_NEW_TOKENS)
        for said, reply in turns:
            conversation.say(said)
            conversation.hear(reply)
        text, seed = conversation.say(_said("line", line, MAX_TEXT)), self._seed(temperature)
        yield from self._written(lambda streamer: self.agent.generate(text, MAX_NEW_TOKENS, temperature, seed, streamer)[len(text) :])

    def act(self, name: str, seed: int) -> Iterator[Timestep]:
        """Plays one episode, at most `MAX_TIMESTEPS` of it."""
        from gato import envs
        from gato.envs.recording import Recording
        from gato.eval.film import as_frame

        if not 0 <= seed < 2**31:
            raise ValueError(f"a seed is a whole number from 0 to {2**31 - 1}, found {seed}")
        task = self.agent.task(name)
        env = envs.make(task, render_mode="rgb_array")
        try:
            policy = self.agent.policy(task, seed=seed)
            recording = Recording(task, env, seed, keep=False)
            while not recording.done and recording.num_timesteps < MAX_TIMESTEPS:
                frame, observed = as_frame(env.render()), recording.observation
                with self._model:
                    actions = policy.act(observed, np.array([recording.reward]))
                recording.step({name: values[0] for name, values in actions.items()})
                sequence = self.agent.tokenizer.encode(Episode(task, observed, actions, np.zeros(1, np.float32)))
                rows = self.agent.tokenizer.table(sequence)
                yield Timestep(recording.num_timesteps, frame, rows, sequence.patches, recording.total_reward, _ending(recording))
        finally:
            env.close()

    def _seed(self, temperature: float) -> int:
        """Another one for each request that samples, so that asking again gives something else."""
        return next(self._seeds) if temperature > 0 else 0

    def _written(self, write: Callable[[_Pieces], str]) -> Iterator[str]:
        """The text so far, at every piece, while `write` goes on in a thread; what `write` returned comes last.

        Whoever stops reading stops the writing too.
        """
        pieces = _Pieces()

        def run() -> None:
            try:
                with self._model:
                    pieces.queue.put(write(pieces))
            except Exception as error:  # raised again where it is read
                pieces.queue.put(error)

        Thread(target=run, daemon=True).start()
        vocabulary, text = self.agent.tokenizer.vocabulary, self.agent.tokenizer.text
        ids: list[int] = []
        try:
            while True:
                match pieces.queue.get():
                    case str(whole):
                        yield whole
                        return
                    case Exception() as error:
                        raise error
                    case list(more):
                        ids += [i for i in more if 2 < i < vocabulary.text_size]
                        assert text is not None
                        yield text.decode(ids)
        finally:
            pieces.is_unread.set()


class _Left(Exception):
    """Nobody reads what is written."""


class _Pieces:
    """A streamer of transformers: queues the ids of each piece; the prompt, which comes first, is left out."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[list[int] | str | Exception] = SimpleQueue()
        self.is_unread, self._is_prompt = Event(), True

    def put(self, ids: Any) -> None:
        if self.is_unread.is_set():
            raise _Left
        if not self._is_prompt:
            self.queue.put(ids.flatten().tolist())
        self._is_prompt = False

    def end(self) -> None:
        pass


# -- drawing ---------------------------------------------------------------------------------------


def draw_timesteps(steps: Iterator[Timestep], task: TaskSpec) -> Iterator[str]:
    """HTML of each timestep, the frame beside its tokens; at a pace that can be followed."""
    due = 0.0
    for step in steps:
        time.sleep(max(0.0, due - time.monotonic()))
        due = time.monotonic() + 1 / FRAMES_PER_SECOND
        facts = f"timestep {step.index}, return {step.total_reward:.4g}" + _references(task) + (f": {step.ending}" if step.ending else "")
        frame = f'<img class="frame" alt="{escape(task.name)}" src="{_uri(step.frame, "JPEG")}">'
        yield f'<div class="acting">{frame}<div><p><b>{escape(facts)}</b></p>{draw_tokens(step)}</div></div>'


def draw_tokens(step: Timestep) -> str:
    """The tokens as HTML: patches as pictures, the others as their values with the id beneath; actions stand out."""
    cells, patch = [], 0
    for row in step.rows:
        kind, value = row["kind"], escape(str(row["value"]))
        if kind == "patch":
            cells.append(f'<img class="patch" alt="patch" title="patch, {value} of 128" src="{_uri(step.patches[patch], "PNG")}">')
            patch += 1
        elif kind == "separator":
            cells.append('<span class="token separator" title="what follows is the action">|</span>')
        else:
            role = "action" if row["local position"] == "action" else kind
            cells.append(f'<span class="token {role}" title="{kind}, id {row["id"]}">{value or "&nbsp;"}<small>{row["id"]}</small></span>')
    return f'<div class="tokens">{"".join(cells)}</div>'


def draw_candidates(candidates: tuple[Candidate, ...]) -> str:
    """A table of the texts with their log-likelihoods."""
    rows = "".join(f"<tr><td>{escape(c.text) or '(nothing)'}</td><td>{c.log_likelihood:.2f}</td></tr>" for c in candidates)
    return f'<table class="candidates"><tr><th>candidate</th><th>log-likelihood</th></tr>{rows}</table>' if rows else ""


def _uri(pixels: np.ndarray, kind: str) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _references(task: TaskSpec) -> str:
    known = [f"{name} {value:.4g}" for name, value in (("random", task.random_return), ("expert", task.expert_return)) if value is not None]
    return f" ({', '.join(known)})" if known else ""


# -- parts -----------------------------------------------------------------------------------------


def _worlds(agent: Agent) -> tuple[list[str], list[str]]:
    """Names of the control tasks that can be played here, and of those that cannot."""
    from gato import envs

    found: tuple[list[str], list[str]] = ([], [])
    for task in agent.tasks.values():
        if not task.is_control or not task.env_id:
            continue
        try:
            envs.make(task).close()
        except (ImportError, ValueError, RuntimeError):  # no simulator, or another version of it, or it cannot be made here
            found[1].append(task.name)
        else:
            found[0].append(task.name)
    return found


def _ending(recording: Any) -> str:
    if not recording.done:
        return f"stopped here after {MAX_TIMESTEPS} timesteps" if recording.num_timesteps >= MAX_TIMESTEPS else ""
    outcome = {True: "success", False: "no success", None: "the episode is over"}
    return outcome[recording.success]


def _said(what: str, text: str, limit: int) -> str:
    if not text.strip():
        raise ValueError(f"the {what} is empty; write something first")
    if len(text) > limit:
        raise ValueError(f"the {what} has {len(text)} characters, at most {limit} are taken; shorten it")
    return text


def _check(temperature: float) -> None:
    if not 0 <= temperature <= 2:
        raise ValueError(f"a temperature is from 0 to 2, found {temperature}")
