"""Which pictures are held out: by concept over all sources, and the same ones whichever packages are there.

| split | holds |
| --- | --- |
| `unseen_concept` | every picture of a held-out concept and of its kinds, in any source, drawing or style |
| `unseen_photo` | the photographs of a concept that is seen as drawings only |
| `unseen_picture` | drawings of a concept that is seen in another drawing or style |
| `train` | the rest |

`configs/held_out_pictures.tsv` names the held-out concepts, and the pictures that the sample pack holds out too.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from gato.data.inspection.duplicates import find_duplicates
from gato.data.store import Store

from .concepts import VAGUE, head, share
from .picture_sources import Picture
from .wordnet import DRAWABLE, WordNet

SPLITS = ("train", "unseen_picture", "unseen_photo", "unseen_concept")
PICTURE_SHARE = 0.1  # of the drawings of a concept
PHOTO_SHARE = 0.5  # of the concepts that have photographs and drawings


@dataclass(frozen=True)
class HeldOut:
    """Concepts, and pictures as `(source, name in the source)`."""

    concepts: frozenset[str]
    pictures: frozenset[tuple[str, str]]

    @classmethod
    def load(cls) -> HeldOut:
        rows = [line.split("\t") for line in held_out_file().read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        return cls(
            frozenset(name for kind, name in rows if kind == "concept"),
            frozenset((kind, name) for kind, name in rows if kind != "concept"),
        )


def held_out_file() -> Path:
    return Path(str(resources.files("gato.configs").joinpath("held_out_pictures.tsv")))


class Families:
    """Whether a concept is a held-out one, its synonym, a kind of it, or named after it ("bag": satchel, shopping bag)."""

    def __init__(self, held_out: HeldOut, net: WordNet) -> None:
        self.held_out, self.net = held_out, net

    @cached_property
    def _senses(self) -> set[str]:
        drawable = (c for c in self.held_out.concepts if self.net.lexfile(c) in DRAWABLE)
        return {sense for c in drawable if (sense := self.net.first(c))}

    def __contains__(self, concept: str) -> bool:
        names = {concept, head(concept), *concept.split("-")}
        sense = self.net.first(concept)
        return bool(names & self.held_out.concepts or {sense, *self.net.ancestors(sense)} & self._senses)

    def named_in(self, caption: str) -> bool:
        """Whether a held-out concept, its synonym or a kind of it is named anywhere in a caption ("cherry pie")."""
        words = re.findall(r"[\w'-]+", caption.lower())
        phrases = (words[i : i + length] for length in (1, 2, 3) for i in range(len(words) - length + 1))
        names = {" ".join([*first, form]) for *first, last in phrases for form in (last, self.net.singular(last))}
        return bool(names & self.held_out.concepts) or any(
            {sense, *self.net.ancestors(sense)} & self._senses
            for name in names
            if self.net.lexfile(name) in DRAWABLE and (sense := self.net.first(name))
        )


def split_pictures(pictures: Sequence[Picture], held_out: HeldOut, net: WordNet, left_out: Counter[str]) -> list[Picture]:
    """Sets every picture's split.

    **Returns:** those that are left: without pictures of other concepts whose caption names a held-out one, and without
    held-out ones whose concept has no picture in `train`; `left_out` counts both.
    """
    families = Families(held_out, net)
    known = {concept: concept in families for concept in {p.concept for p in pictures}}
    groups: dict[str, dict[str, list[Picture]]] = defaultdict(lambda: defaultdict(list))
    left = []
    for picture in pictures:
        if known[picture.concept]:
            picture.split = "unseen_concept"
        elif families.named_in(picture.caption):
            left_out["pictures of another concept whose caption names a held-out one"] += 1
            continue
        else:
            groups[picture.concept][picture.drawing].append(picture)
        left.append(picture)
    for concept, drawings in groups.items():
        _hold_out_drawings(concept, drawings, held_out)
        _hold_out_photos(concept, [p for variants in drawings.values() for p in variants])
    seen = {p.concept for p in left if p.split == "train"}
    kept = [p for p in left if p.split in ("train", "unseen_concept") or p.concept in seen]
    left_out["held-out pictures whose concept no training picture shows"] += len(left) - len(kept)
    return kept


def _hold_out_drawings(concept: str, drawings: dict[str, list[Picture]], held_out: HeldOut) -> None:
    """All variants of a drawing stay on one side; at least one drawing stays in `train` where the table allows it."""
    fixed = {key for key, variants in drawings.items() if any((p.source, p.original) in held_out.pictures for p in variants)}
    is_vague = concept in VAGUE or head(concept) in VAGUE
    chosen = set() if is_vague else {key for key in drawings if share(f"picture:{key}") < PICTURE_SHARE} - fixed
    if chosen and len(fixed | chosen) == len(drawings):
        chosen.remove(max(chosen))
    for key in fixed | chosen:
        for picture in drawings[key]:
            picture.split = "unseen_picture"


def _hold_out_photos(concept: str, pictures: list[Picture]) -> None:
    """All photographs of the concept or none: else one of them would be seen."""
    photos = [p for p in pictures if p.is_photo]
    if photos and any(p.split == "train" and not p.is_photo for p in pictures) and share(f"photo:{concept}") < PHOTO_SHARE:
        for picture in photos:
            picture.split = "unseen_photo"


def drop_lookalikes(pictures: dict[str, list[Picture]], stores: dict[str, Store]) -> tuple[dict[str, list[Picture]], Counter[str]]:
    """The pictures of each split without those that look like one of a split held out more strictly, or repeat one of their own.

    **Arguments:** `pictures` by split, in the order of the episodes of `stores`.

    **Returns:** those that are left, and how many were dropped by reason. A held-out picture whose concept
    is then in no training picture any more goes too.
    """
    order = [split for split in SPLITS if split in stores]
    found = find_duplicates([stores[split] for split in order])
    alike, again = ({split: set[int]() for split in order} for _ in range(2))
    for group in (*found.exact, *found.near):
        strictest = max(store for store, _ in group)
        for store, episode in group:
            if store != strictest:
                alike[order[store]].add(episode)
    for group in found.exact:  # the same picture with the same caption
        for (store, episode), (before, _) in zip(group[1:], group, strict=False):
            if store == before:
                again[order[store]].add(episode)
    left = {split: [p for i, p in enumerate(pictures[split]) if i not in alike[split] | again[split]] for split in order}
    counts: Counter[str] = Counter()
    seen = {p.concept for p in left.get("train", ())}
    for split in order:
        counts[f"look like a picture of another split: {split}"] = len(alike[split])
        counts[f"the same picture and caption again: {split}"] = len(again[split] - alike[split])
        if split in ("unseen_picture", "unseen_photo"):
            kept = [p for p in left[split] if p.concept in seen]
            counts["held-out pictures whose concept no training picture shows"] += len(left[split]) - len(kept)
            left[split] = kept
    return left, +counts
