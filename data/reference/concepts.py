"""What a caption says is shown, as one concept ("a sleeping cat" -> "cat"), and which concepts belong together.

Pictures are held out by concept, never by file: the same word stands in every collection of pictures.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections import defaultdict
from collections.abc import Mapping

from .wordnet import ANIMAL, DRAWABLE, WordNet

SMALL_WORDS = set(
    "a an the of and or in on at with without for from to by under over behind near up "
    "down into against off out no not around between above".split()
)
CUTS = re.compile(
    r"\s*(?:,|\(|:|;|\s-\s|\b(?:with|without|in|on|at|for|from|under|over|behind|near|and|"
    r"against|by|to|showing|singing|wearing|facing|that|of|seen|drawn|joined|jumping|swimming|opening|"
    r"playing|plays|among|fluttering|running free)\b)"
)
PARTS = re.compile(
    r"^(?:slice|piece|pair|stack|pile|bunch|bouquet|loaf|bar|ear|roll|ball|wedge|group|"
    r"drop|spool|string|half|sheet|set)s? of "
)
STYLE = set(
    "cartoon simple stylized stylised generic plain fancy another crazy happy cute big "
    "small large little tiny old new young red green blue yellow purple pink black white "
    "brown grey gray coloured colored b w bw one two three four five six basic classic "
    "the a an my some funny angry bored sleeping closed open left right half hand drawn "
    "heavy medium light dark oncoming beating shaded tan sad crying smiling grinning".split()
)
TAILS = set(
    (
        "symbol icon silhouette outline contour sketch illustration drawing clipart portrait profile design stylized simple style "
        "slice wedge half b tan shaded drawn crossing"
    ).split()
)
VAGUE = {
    "sign", "symbol", "map", "diagram", "illustration", "corner", "flourish", "man", "woman", "person", "face", "male", "female", "tile",
    "road sign", "figure", "people", "food", "set", "pattern", "body part",
}  # fmt: skip


def tidy(text: str) -> str:
    """Turn a raw title or file stem into a plain lower-case phrase."""
    text = html.unescape(html.unescape(text)).replace("_", " ").replace("\u2019", "'")
    text = re.sub(r"\.svg\b|\bopenclipart\b|\bclip ?art\b|\brpg map elements\b|-aj\b", "", text, flags=re.I)
    text = re.sub(r"[(\[]?\b(?:b\s*(?:and|&|_|/| )\s*w|bw|b n|colou?r)\b[)\]]?", " ", text, flags=re.I)
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text)  # "RedCar"
    text = re.sub(r"#\s*\d+|(?<=[A-Za-z])[ -]*0*\d+$|^\d+ (?=\D*$)|\bv\.?\d+$", "", text.strip())
    text = re.sub(r"\s+(?:I|II|III)$", "", text)
    text = re.sub(r"\b0\d\b|^etiquette ", " ", text, flags=re.I).replace(" - ", ", ")
    text = re.sub(r"\(\s*\)|[\"!?*|<>]", " ", text)
    text = re.sub(r"\s*\(([^)]*)\)", r", \1", text)
    return re.sub(r"\s+", " ", text).strip(" .,;:-/").lower()


def proper(caption: str, net: WordNet) -> str:
    """Give proper nouns (words WordNet only spells with a capital) their capital."""
    done = []
    for word in caption.split(" "):
        bare = word.strip(",.()'")
        spellings = net.spelling.get(bare, set())
        single = net.singular(bare)
        plain = bare in spellings or single in net.spelling.get(single, set())
        if len(bare) > 1 and len(spellings) == 1 and not plain and bare not in SMALL_WORDS | {"it", "me", "ok"}:
            word = word.replace(bare, next(iter(spellings)))
        done.append(word)
    return " ".join(done)


def person_concept(caption: str) -> str | None:
    """'woman running' -> 'person running', 'man cook' -> 'cook'."""
    match = re.match(r"^(?:deaf )?(?:wo)?m[ae]n (.+)$|^person (.+)$", caption)
    if not match:
        return None
    rest = match.group(1) or match.group(2)
    first = rest.split(" ")[0]
    if first.endswith("ing") or first in ("with", "in"):
        return "person " + rest.split(" facing")[0]
    return None if first in SMALL_WORDS else rest


def concept_of(caption: str, net: WordNet) -> str:
    """The normalised name of what the caption says is shown (its head noun phrase)."""
    text = re.sub(r"['\u2019]s?\b", "", caption.lower())
    if net.noun(text) and len(text.split()) > 1:
        return text
    person = person_concept(text)
    if person:
        text = person
        if person.startswith("person "):
            return person
    text = PARTS.sub("", text.replace("black and white ", ""))
    cut = CUTS.search(text, 1)
    words = (text[: cut.start()] if cut else text).split()
    while len(words) > 1 and (words[-1] in TAILS or (not words[-1].isalpha() and "-" not in words[-1])):
        words.pop()
    while len(words) > 1 and (words[0] in STYLE or words[0].isdigit()):
        words.pop(0)
    if len(words) > 1 and words[-1] in ("face", "head", "faces"):
        if net.lexfile(net.singular(words[-2])) == ANIMAL:
            words.pop()
    if not words:
        return text
    if len(words) > 1 and net.noun(" ".join(words[-2:])):
        return " ".join(words[-2:])
    words[-1] = net.singular(words[-1])
    for start in range(max(0, len(words) - 3), len(words)):
        if net.noun(" ".join(words[start:])):
            return " ".join(words[start:])
    return words[-1]


def ranked(text: str) -> str:
    """A fixed pseudo-random sort key for a piece of text."""
    return hashlib.sha256(b"opengato-samples:" + text.encode()).hexdigest()


def share(text: str) -> float:
    """A fixed pseudo-random number in [0, 1) for a piece of text."""
    return int(ranked(text)[:8], 16) / 2**32


def synonyms(tally: Mapping[str, int], net: WordNet) -> dict[str, str]:
    """`{concept: name}` for concepts that are first-sense synonyms (car, automobile): the most frequent one names them all.

    **Arguments:** `tally`: number of pictures of each concept.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for concept in sorted(tally):
        offset = net.first(concept)
        if offset and net.lexfile(concept) in DRAWABLE:
            groups[offset].append(concept)
    return {c: min(group, key=lambda c: (-tally[c], c)) for group in groups.values() for c in group}


def head(concept: str) -> str:
    """The head noun of a concept: its last word."""
    return concept.split()[-1]


def closed_family(word: str, concepts: list[str], net: WordNet, up: dict[str, set[str]]) -> set[str]:
    """Every concept with this head noun, all kinds of it, and all with their head nouns."""
    family: set[str] = set()
    todo = {word}
    while todo:
        name = todo.pop()
        offset = net.first(name)
        new = {c for c in concepts if head(c) == name or name in c.split("-") or (offset in up[c] and name == word)} - family
        family |= new
        todo |= {head(c) for c in new} - {name}
    return family
