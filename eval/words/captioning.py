"""How well captions fit pictures: the right title among ten by likelihood, against controls; and how they are worded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from glob import glob
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from gato.agent import Agent
from gato.data.store import Store
from gato.data.stores import find_store
from gato.disk import read_json, spanned
from gato.episode import Episode
from gato.eval.film import png_base64
from gato.eval.score import success_interval
from gato.picture import SUFFIXES, check_local, read_image
from gato.spec import Modality, TaskSpec
from gato.words import picture_of, question_of, text_of

from .wording import nearest_texts, wording_results, words

NUM_CANDIDATES = 10
RANKINGS = {  # what ranks the titles
    "retrieval": "the model",
    "shuffled": "with another picture",
    "blank": "with a blank picture",
    "nearest": "words of the nearest training one",
}
PICTURES_AT_ONCE = 32
MAX_FILES = 100_000
OTHER_SUFFIXES = (".heic", ".heif", ".avif", ".tif", ".tiff", ".svg", ".pdf", ".psd", ".jp2", ".jxl", ".ico", ".tga", ".dng")  # not read


def picture_files(names: Sequence[str]) -> list[Path]:
    """Files as they are named, the pictures below folders, and what patterns match; sorted within each.

    Pictures in forms that are not read, such as TIFF, are among them, so that what reads them names them.

    **Raises:** `ValueError` for a folder or a pattern without pictures, an address, and for more than `MAX_FILES`.
    """
    found: list[Path] = []
    for name in names:
        check_local(name)
        path = Path(name)
        if path.is_dir():
            here = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES + OTHER_SUFFIXES and p.is_file())
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
    if count != 1:
        several = agent.candidates(pictures, count, questions, **generation)
        return [{"caption": found[0].text, "candidates": [asdict(c) for c in found]} for found in several]
    single = agent.captions(pictures, **generation) if questions is None else agent.answers(pictures, questions, **generation)
    return [{"caption": text} for text in single]


def caption_results(agent: Agent, store: str, num_examples: int = 24, seed: int = 0, nearest: str | None = None) -> dict[str, Any]:
    """Measures a store of held-out pictures, with captions or with questions and answers.

    For each picture nine titles of other pictures are drawn, of the same source and as long within a word (see
    `candidate_titles`), and the ten are ranked by the log-likelihood that the model gives them. The controls do without the
    picture: that of another episode is shown, or a blank one, or the title is taken that shares most words with the
    caption of the nearest training picture. What they get right, the titles alone give away.

    **Arguments:** `nearest`: the store of the training pictures, for the control that copies the nearest one's caption.

    **Returns:** `split`, `pictures`, `retrieval` and its controls `shuffled`, `blank` and `nearest` (accuracy with a 95 % Wilson
    interval; `None` for questions, and `nearest` without a store), `chance`, `wording` (see `wording_results`; a sentence
    where its libraries are missing), and unselected `examples` with generated captions.
    """
    path = find_store(store)
    data = Store(path)
    training = Store(find_store(nearest)) if nearest else None
    episodes = [data.episode(i) for i in range(data.num_episodes)]
    rng = np.random.default_rng(seed)
    asks = any(f.modality is Modality.TEXT for f in episodes[0].task.observations)
    ranked = dict.fromkeys(RANKINGS) if asks else _rankings(agent, episodes, training, rng)
    try:
        wording: Any = wording_results(agent, data, training, seed)
    except ImportError as error:
        wording = str(error)
    return {
        "split": path.name, "pictures": len(episodes), "chance": 1 / NUM_CANDIDATES, **ranked, "wording": wording,
        "examples": _examples(agent, [episodes[i] for i in rng.permutation(len(episodes))[:num_examples]]),
    }  # fmt: skip


def pictures_kind(part: dict[str, Any]) -> str:
    """What the pictures are to the checkpoint, as far as its record of the training says."""
    return {True: "pictures it was trained on", False: "held-out pictures"}.get(part.get("trained_on"), "pictures")  # type: ignore[arg-type]


def was_trained_on(checkpoint: Path, store: Store) -> bool | None:
    """Whether a store was among the sources of a checkpoint's training; `None` where nothing is recorded."""
    recorded = checkpoint / "training.json"
    return store.fingerprint in read_json(recorded)["data"].values() if recorded.is_file() else None


def wording_lines(part: dict[str, Any]) -> list[str]:
    """The measures of `wording` as text, a speaker a line."""
    wording = part.get("wording") or {}
    if isinstance(wording, str):
        return [f"  wording not measured: {wording}"]
    lines = [f"  wording of {part['pictures']} texts ({part['split']}), 95 % intervals"] if wording else []
    for speaker, measures in wording.items():
        figures = [f"{name} {x['mean']:.3g} {spanned(x['low'], x['high'], '.3g')}".rstrip() for name, x in measures.items()]
        lines.append(f"    {speaker:26}{', '.join(figures)}")
    return lines


def retrieval_lines(part: dict[str, Any]) -> list[str]:
    """The right title among ten as text, a line for what ranked them."""
    if not part.get("retrieval"):
        return []
    about = f"captions of {part['pictures']} {pictures_kind(part)} ({part['split']})"
    rows = [f"{about}: the right title among {NUM_CANDIDATES} by likelihood, chance {part['chance']:.0%}"]
    for key, label in RANKINGS.items():
        if found := part.get(key):
            rows.append(f"  {label:34}{found['accuracy']:6.1%} [{found['low']:.1%}, {found['high']:.1%}]")
    return rows


def candidate_titles(episodes: Sequence[Episode], rng: np.random.Generator) -> list[list[str]]:
    """Each picture's own title first, then nine different ones that nothing but the picture tells from it.

    Those are of pictures of another concept, from the same source, with as many words or one more or less; where there are
    fewer than nine, the next in length are taken, and then those of other sources. What else the picture itself is called is
    none of them.

    **Raises:** `ValueError` where fewer than nine titles are of other pictures.
    """
    titles, shown = [text_of(e) for e in episodes], _pictures(episodes)
    own: dict[int, set[str]] = {}  # all titles of a picture
    for title, picture in zip(titles, shown, strict=True):
        own.setdefault(picture, set()).add(title)
    known = [(str(e.parameters.get("source", "")), str(e.parameters.get("concept", ""))) for e in episodes]
    places: dict[str, list[int]] = {}  # of every title
    for i, title in enumerate(titles):
        places.setdefault(title, []).append(i)
    most = max(map(len, own.values()))
    if len(places) - most < NUM_CANDIDATES - 1:
        of_one = f", {most} of them of one picture" if most > 1 else ""
        raise ValueError(f"the store has {len(places)} distinct titles{of_one}; choosing among {NUM_CANDIDATES} needs more pictures")
    lengths = {title: len(title.split()) for title in places}
    chosen = []
    for title, picture, (source, concept) in zip(titles, shown, known, strict=True):
        ranks = {
            other: (
                any(concept and known[i][1] == concept for i in where),
                all(known[i][0] != source for i in where),
                max(1, abs(lengths[other] - lengths[title])),
            )
            for other, where in places.items()
            if other not in own[picture]
        }
        last = sorted(ranks.values())[NUM_CANDIDATES - 2]
        sure = [other for other, rank in ranks.items() if rank < last]
        rest = [other for other, rank in ranks.items() if rank == last]
        drawn = rng.choice(len(rest), NUM_CANDIDATES - 1 - len(sure), replace=False)
        chosen.append([title, *sure, *(rest[j] for j in drawn)])
    return chosen


def _pictures(episodes: Sequence[Episode]) -> list[int]:
    """Which picture each episode shows: 0 the first, and so on."""
    numbers: dict[bytes, int] = {}
    return [numbers.setdefault(sha256(picture_of(e).tobytes()).digest(), len(numbers)) for e in episodes]


def with_others(episodes: Sequence[Episode], rng: np.random.Generator) -> list[Episode]:
    """For each episode one of another picture, for all of the same picture the same one."""
    shown = _pictures(episodes)
    first = {picture: episode for picture, episode in zip(reversed(shown), reversed(episodes), strict=True)}
    cycle = rng.permutation(len(first))
    others = np.empty(len(first), np.int64)
    others[cycle] = np.roll(cycle, 1)  # a single cycle, so that no picture keeps its own
    return [first[int(others[picture])] for picture in shown]


def _rankings(agent: Agent, episodes: list[Episode], training: Store | None, rng: np.random.Generator) -> dict[str, Any]:
    task, image = agent.caption_task()
    candidates = candidate_titles(episodes, rng)
    others = with_others(episodes, rng)
    blank = [replace(e, observations={image.name: np.full_like(e.observations[image.name], 255)}) for e in episodes]
    shown = {"retrieval": episodes, "shuffled": others, "blank": blank}
    found: dict[str, Any] = {key: _accuracy(_ranked_first(agent, task, them, candidates)) for key, them in shown.items()}
    found["nearest"] = None
    if training is not None:
        copied = nearest_texts([picture_of(e) for e in episodes], training)
        found["nearest"] = _accuracy([most_alike(text, titles, rng) == 0 for text, titles in zip(copied, candidates, strict=True)])
    return found


def most_alike(text: str, titles: Sequence[str], rng: np.random.Generator) -> int:
    """Which title shares most words with a text (F1 of the sets of words); one of several at random."""
    said = set(words(text).split())
    alike = []
    for title in titles:
        theirs = set(words(title).split())
        alike.append(2 * len(said & theirs) / max(1, len(said) + len(theirs)))
    return int(rng.choice(np.flatnonzero(np.array(alike) == max(alike))))


def _ranked_first(agent: Agent, task: TaskSpec, episodes: list[Episode], candidates: list[list[str]]) -> list[bool]:
    """Whether, for each picture, the first of its candidate titles is the likeliest. **Raises:** `ValueError` for no finite likelihood."""
    field, outcomes = task.actions[0].name, []
    for start in range(0, len(episodes), PICTURES_AT_ONCE):
        pairs = list(zip(episodes, candidates, strict=True))[start : start + PICTURES_AT_ONCE]
        options = [
            Episode(task=task, observations=e.observations, actions={field: np.array([t], dtype=object)}, rewards=e.rewards)
            for e, titles in pairs
            for t in titles
        ]
        found = agent.log_likelihood(options)
        if wrong := int((~np.isfinite(found)).sum()):
            raise ValueError(
                f"the likelihoods of {wrong} of {len(found)} titles are no finite numbers, so nothing ranks them; the weights are damaged "
                "or their training diverged: take an earlier checkpoint"
            )
        outcomes += (found.reshape(len(pairs), NUM_CANDIDATES).argmax(axis=1) == 0).tolist()
    return outcomes


def _accuracy(outcomes: list[bool]) -> dict[str, float]:
    low, high = success_interval(sum(outcomes), len(outcomes))
    return {"accuracy": float(np.mean(outcomes)), "low": low, "high": high}


def _examples(agent: Agent, episodes: list[Episode]) -> list[dict[str, str]]:
    from PIL import Image

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
