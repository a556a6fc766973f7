"""How well captions fit pictures: choosing the right title among ten by likelihood, against a control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gato.agent import Agent
from gato.episode import Episode
from gato.spec import TaskSpec

from ..data.store import Store, stores_folder

NUM_CANDIDATES = 10
PICTURES_AT_ONCE = 32


def caption_results(agent: Agent, store: str, num_examples: int = 24, seed: int = 0) -> dict[str, Any]:
    """Measures a store of held-out pictures.

    For each picture the titles of nine other pictures are drawn and the ten are ranked by the
    log-likelihood the model gives them. The control shows the picture of another episode instead: what
    remains is what the titles alone give away.

    **Returns:** `split`, `pictures`, `retrieval` and `shuffled` (accuracy with a 95 % Wilson interval),
    `chance`, and unselected `examples` with generated captions.
    """
    path = Path(store) if (Path(store) / "manifest.json").exists() else stores_folder() / store
    data = Store(path)
    task, _ = agent.caption_task()
    episodes = [data.episode(i) for i in range(data.num_episodes)]
    rng = np.random.default_rng(seed)
    candidates = _candidates([_title(e) for e in episodes], rng)
    partner = np.roll(rng.permutation(len(episodes)), 1)
    right = _ranked_first(agent, task, episodes, candidates)
    control = _ranked_first(agent, task, [episodes[j] for j in partner], candidates)
    return {
        "split": path.name, "pictures": len(episodes), "chance": 1 / NUM_CANDIDATES,
        "retrieval": _accuracy(right), "shuffled": _accuracy(control),
        "examples": _examples(agent, episodes, rng.permutation(len(episodes))[:num_examples]),
    }  # fmt: skip


def _title(episode: Episode) -> str:
    return str(next(iter(episode.actions.values()))[0])


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


def _examples(agent: Agent, episodes: list[Episode], chosen: np.ndarray) -> list[dict[str, str]]:
    from PIL import Image

    from .control import png_base64

    pictures = [np.array(next(iter(episodes[i].observations.values()))[0]) for i in chosen]
    captions = agent.captions(pictures) if pictures else []
    return [
        {"title": _title(episodes[i]), "caption": caption, "image": png_base64(Image.fromarray(picture))}
        for i, picture, caption in zip(chosen, pictures, captions, strict=True)
    ]
