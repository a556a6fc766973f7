"""How generated captions and answers are worded, against what people wrote: CIDEr-D, BLEU, ROUGE-L, exact match.

Every measure stands beside its controls, which do not see the picture: the caption of another picture, the
caption of a blank one (what the text alone suggests), and the caption of the nearest training picture (what
copying would give). The measures come from libraries (extra `metrics`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from gato.agent import Agent
from gato.data.store import Store
from gato.episode import Episode
from gato.eval.score import mean_interval
from gato.words import picture_of, question_of, text_of

PICTURES_AT_ONCE = 32
TRAINING_AT_ONCE = 256
EXTRA = "measuring the wording of captions needs sacrebleu, rouge-score and pycocoevalcap: pip install 'opengato[metrics]'"


def wording_results(agent: Agent, store: Store, training: Store | None = None, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Measures of a store of held-out pictures with captions, or with questions and answers.

    **Arguments:** `training`: the store that the model was trained on, for the caption of the nearest picture.

    **Returns:** `{speaker: {measure: {mean, low, high}}}` with 95 % bootstrap intervals over pictures. Speakers: `ours`,
    `another picture`, `blank picture` and, with `training`, `nearest training picture`.

    **Raises:** `ImportError` with the pip line where a library is missing.
    """
    episodes = [store.episode(i) for i in range(store.num_episodes)]
    asked = question_of(episodes[0]) is not None
    groups = _groups(episodes)
    shown = [group[0] for group in groups]
    cycle = np.random.default_rng(seed).permutation(len(shown))
    other = np.empty(len(shown), np.int64)
    other[cycle] = np.roll(cycle, 1)  # a single cycle, so that no picture keeps its own
    pictures = [picture_of(e) for e in shown]
    questions = [str(question_of(e)) for e in shown] if asked else None
    blank = [np.full_like(picture, 255) for picture in pictures]
    said = {
        "ours": _say(agent, pictures, questions),
        "another picture": _say(agent, [pictures[j] for j in other], questions),
        "blank picture": _say(agent, blank, questions),
    }
    if training is not None and not asked:
        said["nearest training picture"] = nearest_texts(pictures, training)
    references = [_references(group) for group in groups]
    measures: dict[str, Callable[..., np.ndarray]] = {"exact match": exact_match} if asked else MEASURES
    return {speaker: {name: _interval(f(texts, references)) for name, f in measures.items()} for speaker, texts in said.items()}


def exact_match(texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) 1 where a text has the words of one of its references, in lower case and without punctuation; else 0."""
    return np.array([float(words(t) in map(words, refs)) for t, refs in zip(texts, references, strict=True)])


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) BLEU of each caption in [0, 100]; n-grams that a caption is too short for do not count (sacrebleu's effective order)."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise ImportError(EXTRA) from None
    metric = BLEU(effective_order=True, lowercase=True)
    return np.array([metric.sentence_score(t, list(refs)).score for t, refs in zip(texts, references, strict=True)])


def rouge_l(texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) ROUGE-L in [0, 100]: F1 of the longest common subsequence of words, with the best of the references."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ImportError(EXTRA) from None
    scorer = RougeScorer(["rougeL"])
    return np.array([100 * scorer.score_multi(list(refs), t)["rougeL"].fmeasure for t, refs in zip(texts, references, strict=True)])


def cider_d(texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) CIDEr-D; the rarity of n-grams is counted over these references, so figures of different stores do not compare."""
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError:
        raise ImportError(EXTRA) from None
    truth = {i: [words(r) for r in refs] for i, refs in enumerate(references)}
    return np.asarray(Cider().compute_score(truth, {i: [words(t)] for i, t in enumerate(texts)})[1], np.float64)


MEASURES: dict[str, Callable[..., np.ndarray]] = {"CIDEr-D": cider_d, "BLEU": bleu, "ROUGE-L": rouge_l}


def words(text: str) -> str:
    """Lower-case words with single spaces between them."""
    return " ".join(re.findall(r"\w+", text.lower()))


def nearest_texts(pictures: Sequence[np.ndarray], training: Store) -> list[str]:
    """For each picture the text of the training picture with the least squared difference of pixels; reads the store once.

    **Raises:** `ValueError` if the training pictures have another size.
    """
    mine = np.stack(pictures).reshape(len(pictures), -1).astype(np.float32)
    best, texts = np.full(len(mine), np.inf), [""] * len(mine)
    for start in range(0, training.num_episodes, TRAINING_AT_ONCE):
        episodes = [training.episode(i) for i in range(start, min(start + TRAINING_AT_ONCE, training.num_episodes))]
        others = [picture_of(e) for e in episodes]
        if wrong := [other.shape for other in others if other.shape != pictures[0].shape]:
            raise ValueError(f"{training.path} has pictures of {wrong[0]}, the measured ones are {pictures[0].shape}")
        theirs = np.stack(others).reshape(len(others), -1).astype(np.float32)
        # |a - b|^2 without |a|^2, which is the same for all: one product of matrices
        distance = (theirs**2).sum(axis=1) - 2 * mine @ theirs.T
        nearest = distance.argmin(axis=1)
        for j in np.flatnonzero(distance.min(axis=1) < best):
            texts[j] = text_of(episodes[nearest[j]])
        best = np.minimum(best, distance.min(axis=1))
    return texts


def _groups(episodes: Sequence[Episode]) -> list[list[Episode]]:
    """Episodes of the same picture and question together: their texts are references of one another."""
    groups: dict[tuple[bytes, str | None], list[Episode]] = {}
    for episode in episodes:
        groups.setdefault((sha256(picture_of(episode).tobytes()).digest(), question_of(episode)), []).append(episode)
    return list(groups.values())


def _references(group: Sequence[Episode]) -> list[str]:
    given = [str(answer) for e in group for answer in e.parameters.get("answers") or []]
    return list(dict.fromkeys([*map(text_of, group), *given]))


def _say(agent: Agent, pictures: Sequence[np.ndarray], questions: Sequence[str] | None) -> list[str]:
    said: list[str] = []
    for start in range(0, len(pictures), PICTURES_AT_ONCE):
        here = slice(start, start + PICTURES_AT_ONCE)
        said += agent.captions(pictures[here]) if questions is None else agent.answers(pictures[here], questions[here])
    return said


def _interval(values: np.ndarray) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), mean_interval(values), strict=True))
