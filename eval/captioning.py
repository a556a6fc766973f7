"""How well captions fit pictures: the right title among ten by likelihood, against a control; and how they are worded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from gato.agent import Agent
from gato.episode import Episode
from gato.spec import Modality, TaskSpec

from ..data.captions import SUFFIXES, read_image
from ..data.store import Store, stores_folder
from .wording import picture_of, question_of, text_of, wording_results

NUM_CANDIDATES = 10
PICTURES_AT_ONCE = 32
MAX_FILES = 100_000


def picture_files(names: Sequence[str]) -> list[Path]:
    """Files as they are named, the pictures below folders, and what patterns match; sorted within each.

    **Raises:** `ValueError` for a folder or a pattern without pictures, and for more than `MAX_FILES`.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            here = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        elif not path.exists() and any(c in name for c in "*?["):
            here = sorted(Path(p) for p in glob(name, recursive=True) if Path(p).is_file())
        else:
            here = [path]
        if not here:
            raise ValueError(f"'{name}' holds no picture; expected files such as {', '.join('*' + s for s in SUFFIXES)}")
        found += here
    if len(found) > MAX_FILES:
        raise ValueError(f"{len(found)} pictures were named, at most {MAX_FILES} are captioned in one go; name fewer")
    return list(dict.fromkeys(found))


def caption_files(agent: Agent, files: Sequence[Path], options: Any) -> list[dict[str, Any]]:
    """A row per file: `image`, `caption`, and with several `candidates` those too; or `error` where one of many cannot be read.

    **Arguments:** `options`: what `gato caption --help` lists.

    **Raises:** `ValueError` if no picture can be read.
    """
    if options.batch_size < 1:
        raise ValueError(f"batch_size is at least 1, found {options.batch_size}")
    generation = {key: getattr(options, key) for key in ("max_new_tokens", "temperature", "seed")}
    rows: list[dict[str, Any]] = []
    for start in range(0, len(files), options.batch_size):
        batch = [_read(path) for path in files[start : start + options.batch_size]]
        pictures = [picture for picture in batch if not isinstance(picture, ValueError)]
        questions = None if options.question is None else [options.question] * len(pictures)
        found = iter(_texts(agent, pictures, questions, options.candidates, generation) if pictures else [])
        for path, picture in zip(files[start:], batch, strict=False):
            row: dict[str, Any] = {"image": str(path)}
            rows.append(row | ({"error": str(picture)} if isinstance(picture, ValueError) else next(found)))
    errors = [row["error"] for row in rows if "error" in row]
    if len(errors) == len(rows):
        raise ValueError(errors[0])
    return rows


def _read(path: Path) -> np.ndarray | ValueError:
    try:
        return read_image(path)
    except ValueError as error:
        return error


def _texts(
    agent: Agent, pictures: list[np.ndarray], questions: list[str] | None, count: int, generation: dict[str, Any]
) -> list[dict[str, Any]]:
    if count > 1:
        several = agent.candidates(pictures, count, questions, **generation)
        return [{"caption": found[0].text, "candidates": [asdict(c) for c in found]} for found in several]
    single = agent.captions(pictures, **generation) if questions is None else agent.answers(pictures, questions, **generation)
    return [{"caption": text} for text in single]


def caption_results(agent: Agent, store: str, num_examples: int = 24, seed: int = 0, nearest: str | None = None) -> dict[str, Any]:
    """Measures a store of held-out pictures, with captions or with questions and answers.

    For each picture the titles of nine other pictures are drawn and the ten are ranked by the
    log-likelihood the model gives them. The control shows the picture of another episode instead: what
    remains is what the titles alone give away.

    **Arguments:** `nearest`: the store of the training pictures, for the control that copies the nearest one's caption.

    **Returns:** `split`, `pictures`, `retrieval` and `shuffled` (accuracy with a 95 % Wilson interval; `None` for
    questions), `chance`, `wording` (see `wording_results`; a sentence where its libraries are missing), and unselected
    `examples` with generated captions.
    """
    path = store_path(store)
    data = Store(path)
    episodes = [data.episode(i) for i in range(data.num_episodes)]
    rng = np.random.default_rng(seed)
    right = control = None
    if all(f.modality is Modality.IMAGE for f in episodes[0].task.observations):
        task, _ = agent.caption_task()
        candidates = _candidates([text_of(e) for e in episodes], rng)
        partner = np.roll(rng.permutation(len(episodes)), 1)
        right = _accuracy(_ranked_first(agent, task, episodes, candidates))
        control = _accuracy(_ranked_first(agent, task, [episodes[j] for j in partner], candidates))
    try:
        wording: Any = wording_results(agent, data, Store(store_path(nearest)) if nearest else None, seed)
    except ImportError as error:
        wording = str(error)
    return {
        "split": path.name, "pictures": len(episodes), "chance": 1 / NUM_CANDIDATES,
        "retrieval": right, "shuffled": control, "wording": wording,
        "examples": _examples(agent, [episodes[i] for i in rng.permutation(len(episodes))[:num_examples]]),
    }  # fmt: skip


def store_path(name: str) -> Path:
    """A store's folder, or the place that its name stands for."""
    return Path(name) if (Path(name) / "manifest.json").exists() else stores_folder() / name


def wording_lines(part: dict[str, Any]) -> list[str]:
    """The measures of `wording` as text, a speaker a line."""
    wording = part.get("wording") or {}
    if isinstance(wording, str):
        return [f"  wording not measured: {wording}"]
    lines = [f"  wording of {part['pictures']} texts ({part['split']}), 95 % intervals"] if wording else []
    for speaker, measures in wording.items():
        figures = [f"{name} {x['mean']:.3g} [{x['low']:.3g}, {x['high']:.3g}]" for name, x in measures.items()]
        lines.append(f"    {speaker:26}{', '.join(figures)}")
    return lines


def _candidates(titles: list[str], rng: np.random.Generator) -> list[list[str]]:
    """Each picture's own title first, then nine different ones."""
    distinct = sorted(set(titles))
    if len(distinct) < NUM_CANDIDATES:
        raise ValueError(f"the store has {len(distinct)} distinct titles; choosing among {NUM_CANDIDATES} needs more pictures")
    chosen = []
    for title in titles:
        others = [t for t in rng.choice(distinct, NUM_CANDIDATES, replace=False) if t != title]
        chosen.append([title, *map(str, others[: NUM_CANDIDATES - 1])])
    return chosen


def _ranked_first(agent: Agent, task: TaskSpec, episodes: list[Episode], candidates: list[list[str]]) -> list[bool]:
    """Whether, for each picture, the first of its candidate titles is the likeliest."""
    field, outcomes = task.actions[0].name, []
    for start in range(0, len(episodes), PICTURES_AT_ONCE):
        pairs = list(zip(episodes, candidates, strict=True))[start : start + PICTURES_AT_ONCE]
        options = [
            Episode(task=task, observations=e.observations, actions={field: np.array([t], dtype=object)}, rewards=e.rewards)
            for e, titles in pairs
            for t in titles
        ]
        outcomes += (agent.log_likelihood(options).reshape(len(pairs), NUM_CANDIDATES).argmax(axis=1) == 0).tolist()
    return outcomes


def _accuracy(outcomes: list[bool]) -> dict[str, float]:
    from scipy.stats import binomtest

    interval = binomtest(sum(outcomes), len(outcomes)).proportion_ci(method="wilson")
    return {"accuracy": float(np.mean(outcomes)), "low": float(interval.low), "high": float(interval.high)}


def _examples(agent: Agent, episodes: list[Episode]) -> list[dict[str, str]]:
    from PIL import Image

    from .control import png_base64

    pictures = [picture_of(e) for e in episodes]
    questions = [question_of(e) for e in episodes]
    asked = [q for q in questions if q is not None]
    said = [] if not pictures else agent.answers(pictures, asked) if asked else agent.captions(pictures)
    return [
        {
            "title": text_of(episode) if question is None else f"{question} {text_of(episode)}", "caption": caption,
            "image": png_base64(Image.fromarray(picture)),
        }
        for episode, question, picture, caption in zip(episodes, questions, pictures, said, strict=True)
    ]  # fmt: skip
