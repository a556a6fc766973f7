"""WordNet 3.0 from its database files: nouns and their kinds, which pictures' concepts are made of, and dictionary entries.

The files are read here, in some forty lines: nltk's reader wants its own download of them, and nltk is no part of the base install.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

POS_NAMES = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
DRAWABLE = {"05", "06", "08", "13", "17", "19", "20"}  # lexicographer files of things that can be drawn
ANIMAL = "05"

KEEP_PLURAL = set(
    (
        "glasses scissors jeans trousers shorts headphones binoculars stairs sunglasses goggles briefs eyeglasses maracas gloves pants "
        "dice grass cross chess glass bus cactus lens christmas tennis fries news swiss dress mars venus"
    ).split()
)


@dataclass
class Synset:
    """One WordNet synonym set."""

    lexfile: str
    words: list[str]
    hypernyms: list[str]
    gloss: str


@dataclass
class WordNet:
    """The parts of WordNet used here: nouns for concepts, glosses for text."""

    synsets: dict[str, dict[str, Synset]] = field(default_factory=dict)
    senses: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    counts: dict[tuple[str, str, int], int] = field(default_factory=dict)
    plurals: dict[str, str] = field(default_factory=dict)
    spelling: dict[str, set[str]] = field(default_factory=dict)

    def noun(self, phrase: str) -> bool:
        """True if the phrase is a noun (or noun compound) in WordNet."""
        return phrase.replace(" ", "_") in self.senses["noun"]

    def first(self, phrase: str) -> str | None:
        """The offset of the most frequent noun sense of the phrase."""
        found = self.senses["noun"].get(phrase.replace(" ", "_"))
        return found[0] if found else None

    def lexfile(self, phrase: str) -> str:
        """The lexicographer file of the phrase's first noun sense, or ''."""
        offset = self.first(phrase)
        return self.synsets["noun"][offset].lexfile if offset else ""

    def ancestors(self, offset: str | None) -> set[str]:
        """All hypernyms of a noun synset."""
        seen: set[str] = set()
        todo = [offset] if offset else []
        while todo:
            for parent in self.synsets["noun"][todo.pop()].hypernyms:
                if parent not in seen:
                    seen.add(parent)
                    todo.append(parent)
        return seen

    def singular(self, word: str) -> str:
        """The singular of a noun, where WordNet knows one."""
        if word in KEEP_PLURAL:
            return word
        if word in self.plurals:
            return self.plurals[word]
        for end, new in (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("ses", "s"), ("ves", "f"), ("men", "man"), ("s", "")):
            base = word[: -len(end)] + new
            if word.endswith(end) and not word.endswith("ss") and self.noun(base):
                return base
        return word

    def known(self, word: str) -> bool:
        """True if the word, or a base form of it, is in WordNet at all."""
        forms = {word, self.singular(word)}
        for end, news in (("ing", ("", "e")), ("ed", ("", "e")), ("s", ("",)), ("es", ("",)), ("er", ("", "e")), ("est", ("", "e"))):
            if word.endswith(end):
                stem = word[: -len(end)]
                forms |= {stem + new for new in news}
                if len(stem) > 2 and stem[-1] == stem[-2]:
                    forms.add(stem[:-1])
        return any(form in table for table in self.senses.values() for form in forms)


def read_synset(line: str) -> tuple[str, Synset]:
    """Parse one line of a WordNet data file."""
    head, gloss = line.split(" | ", 1)
    part = head.split(" ")
    count = int(part[3], 16)
    words = [part[4 + 2 * i] for i in range(count)]
    pointers = part[5 + 2 * count :]
    parents = [pointers[i + 1] for i in range(len(pointers) - 1) if pointers[i] in ("@", "@i") and pointers[i + 2] == "n"]
    return part[0], Synset(part[1], words, parents, gloss.strip())


def read_wordnet(base: Path) -> WordNet:
    """Reads the database files `data.noun`, `index.noun`, ... of a folder.

    **Raises:** `ValueError` if one is missing.
    """
    net = WordNet()
    for pos in POS_NAMES:
        data = _text(base / f"data.{pos}")
        net.synsets[pos] = dict(read_synset(line) for line in data.splitlines() if not line.startswith("  "))
        net.senses[pos] = {}
        index = _text(base / f"index.{pos}")
        for line in index.splitlines():
            if not line.startswith("  "):
                part = line.split()
                net.senses[pos][part[0]] = part[-int(part[2]) :]
    for table in net.synsets.values():
        for synset in table.values():
            for word in synset.words:
                word = re.sub(r"\([a-z]+\)$", "", word)
                net.spelling.setdefault(word.lower(), set()).add(word)
    for line in _text(base / "noun.exc").splitlines():
        form, single = line.split()[:2]
        net.plurals[form] = single
    names = {1: "noun", 2: "verb", 3: "adj", 5: "adj", 4: "adv"}
    for line in _text(base / "cntlist.rev").splitlines():
        key, sense, count = line.split()
        lemma, rest = key.split("%")
        net.counts[(names[int(rest[0])], lemma, int(sense))] = int(count)
    return net


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} is missing; WordNet's folder holds data.noun, index.noun and so on")
    return path.read_text(encoding="utf-8")


UNFIT = re.compile(
    r"offensive|vulgar|obscen|slur|disparag|derogat|sexual|\bsex\b|intercourse|genital|"
    r"prostitut|penis|vagina|testicle|masturb|orgasm|erotic|porn|rape\b|copulat|semen|"
    r"nigger|negro|\bwhore|brothel|buttocks|homosexual|excrement|feces|faeces|suicide|"
    r"breasts?\b|naked|nude|heroin\b|cocaine|marijuana|fuck|\bshit|bitch|bastard|nazi",
    re.I,
)


def prose(gloss: str) -> str:
    """'a; b; "example"' -> 'a; b. "Example."' kept close to WordNet's own wording."""
    pieces = re.findall(r'"[^"]*"[^;"]*|[^";]+', gloss)
    pieces = [piece.strip(" ;:") for piece in pieces if piece.strip(" ;:")]
    meaning = "; ".join(p for p in pieces if not p.startswith('"'))
    examples = " ".join(p for p in pieces if p.startswith('"'))
    return f"{meaning}. {examples}".strip() if meaning else ""


def documents(net: WordNet) -> list[tuple[str, str]]:
    """(title, text), most frequently tagged words first; each synset is used once."""
    uses: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for (pos, lemma, sense), count in net.counts.items():
        offsets = net.senses[pos].get(lemma, [])
        if sense <= len(offsets):
            uses[(pos, offsets[sense - 1])].append((count, lemma))
    entries: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for (pos, offset), users in uses.items():
        count, lemma = min(users, key=lambda user: (-user[0], user[1]))
        gloss = net.synsets[pos][offset].gloss
        if UNFIT.search(gloss) or UNFIT.search(lemma):
            continue
        meaning = prose(gloss)
        if meaning and lemma[0].isalpha():
            entries[lemma].append((count, pos, meaning))
    documents = []
    for lemma, senses in entries.items():
        senses.sort(key=lambda s: (-s[0], s[1], s[2]))
        title, last = lemma.replace("_", " "), ""
        spellings = net.spelling.get(lemma, set())
        if len(spellings) == 1 and all(s[1] == "noun" for s in senses):
            title = next(iter(spellings)).replace("_", " ")
        text = title + ":"
        for _, pos, meaning in senses:
            if len(text) + len(meaning) > 620 and last:
                break
            text += f" ({POS_NAMES[pos]}) {meaning}" if pos != last else f" Also: {meaning}"
            last = pos
        documents.append((sum(s[0] for s in senses), title, text))
    documents.sort(key=lambda d: (-d[0], d[1]))
    return [(title, text) for _, title, text in documents if 60 <= len(text) <= 700]
