#!/usr/bin/env python3
"""Build the sample pack: captioned pictures and English text, as two parquet files.

Usage:
    python samples/build.py --openclipart-svg DIR --openclipart-png DIR \
        --emoji DIR --wordnet DIR --out samples

Each DIR is an unpacked package (Debian openclipart-svg, openclipart-png and
wordnet-base; npm emoji-datasource-google).  Nothing is fetched.  The result
depends only on the inputs, on titles.tsv beside this script and on the
versions of pillow and pyarrow: there is no clock and no random state.
README.md says what the columns mean and how the split works.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import io
import json
import re
import sys
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIZE = 64
COLOURS = 64
HELD_OUT_SHARE = 0.08  # share of concepts kept out of training altogether
PICK_SHARE = 0.8  # share of many-picture concepts that lend an unseen picture
MAX_REPEATS = 6  # drawings with one caption by one author
MAX_FAMILY = 12  # a held-out family holds at most this many pictures
TEXT_BYTES = 1_450_000
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a few PNGs are huge

TEST_SHARE = 0.05  # share of text documents in the test split

# ----------------------------------------------------------------- helpers


class BuildError(Exception):
    """A problem the user can fix; printed as one line, exit code 2."""


def ranked(text: str) -> str:
    """A fixed pseudo-random sort key for a piece of text."""
    return hashlib.sha256(b"opengato-samples:" + text.encode()).hexdigest()


def need(path: Path, what: str) -> Path:
    """Return path, or stop with a one-line error when it is missing."""
    if not path.exists():
        raise BuildError(f"{what} not found: {path}")
    return path


def locate(root: Path, tail: str, what: str) -> Path:
    """Find `tail` under an unpacked package: directly, or below usr/share."""
    need(root, f"{what} folder")
    for candidate in (root / tail, root / "usr" / "share" / tail, root):
        if candidate.is_dir() and (candidate.name == Path(tail).name):
            return candidate
    raise BuildError(f"{what}: no folder '{tail}' under {root}")


# ------------------------------------------------------------------ WordNet

POS_FILES = (("noun", 1), ("verb", 2), ("adj", 3), ("adv", 4))
POS_NAMES = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
# Lexicographer files of things that can be drawn.
DRAWABLE = {"05", "06", "08", "13", "17", "19", "20"}
ANIMAL = "05"


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


def read_wordnet(root: Path) -> WordNet:
    """Read the WordNet 3.0 database files."""
    base = locate(root, "wordnet", "WordNet")
    net = WordNet()
    for pos, number in POS_FILES:
        data = need(base / f"data.{pos}", "WordNet file").read_text(encoding="utf-8")
        net.synsets[pos] = dict(read_synset(line) for line in data.splitlines() if not line.startswith("  "))
        net.senses[pos] = {}
        index = need(base / f"index.{pos}", "WordNet file").read_text(encoding="utf-8")
        for line in index.splitlines():
            if not line.startswith("  "):
                part = line.split()
                net.senses[pos][part[0]] = part[-int(part[2]) :]
    for table in net.synsets.values():
        for synset in table.values():
            for word in synset.words:
                word = re.sub(r"\([a-z]+\)$", "", word)
                net.spelling.setdefault(word.lower(), set()).add(word)
    for line in need(base / "noun.exc", "WordNet file").read_text().splitlines():
        form, single = line.split()[:2]
        net.plurals[form] = single
    names = {1: "noun", 2: "verb", 3: "adj", 5: "adj", 4: "adv"}
    for line in need(base / "cntlist.rev", "WordNet file").read_text().splitlines():
        key, sense, count = line.split()
        lemma, rest = key.split("%")
        net.counts[(names[int(rest[0])], lemma, int(sense))] = int(count)
    return net


# ----------------------------------------------------------------- captions

KEEP_PLURAL = {
    "glasses",
    "scissors",
    "jeans",
    "trousers",
    "shorts",
    "headphones",
    "binoculars",
    "stairs",
    "sunglasses",
    "goggles",
    "briefs",
    "eyeglasses",
    "maracas",
    "gloves",
    "pants",
    "dice",
    "grass",
    "cross",
    "chess",
    "glass",
    "bus",
    "cactus",
    "lens",
    "christmas",
    "tennis",
    "fries",
    "news",
    "swiss",
    "dress",
    "mars",
    "venus",
}
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
TAILS = {
    "symbol",
    "icon",
    "silhouette",
    "outline",
    "contour",
    "sketch",
    "illustration",
    "drawing",
    "clipart",
    "portrait",
    "profile",
    "design",
    "stylized",
    "simple",
    "style",
    "slice",
    "wedge",
    "half",
    "b",
    "tan",
    "shaded",
    "drawn",
    "crossing",
}
VAGUE = {
    "sign",
    "symbol",
    "map",
    "diagram",
    "illustration",
    "corner",
    "flourish",
    "man",
    "woman",
    "person",
    "face",
    "male",
    "female",
    "tile",
    "road sign",
    "figure",
    "people",
    "food",
    "set",
    "pattern",
    "body part",
}


def tidy(text: str) -> str:
    """Turn a raw title or file stem into a plain lower-case phrase."""
    text = html.unescape(html.unescape(text)).replace("_", " ").replace("’", "'")
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
        if len(bare) > 1 and len(spellings) == 1 and not plain and bare not in SMALL_WORDS | {"me", "ok"}:
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
    text = re.sub(r"['’]s?\b", "", caption.lower())
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
    while len(words) > 1 and (words[-1] in TAILS or not words[-1].isalpha() and "-" not in words[-1]):
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


# ------------------------------------------------------------------ pictures


@dataclass
class Picture:
    """One captioned picture on its way into the pack."""

    image: bytes
    caption: str
    concept: str
    source: str
    licence: str
    author: str
    original: str
    drawing: str  # variants of one drawing share this key
    pixels: np.ndarray = field(repr=False, default_factory=lambda: np.zeros(0))
    split: str = "train"


def render(path: Path, native: bool) -> tuple[bytes, np.ndarray] | None:
    """Draw a picture on white, 64x64, at most 64 colours; None if nearly empty or unreadable."""
    try:
        with Image.open(path) as opened:
            art = opened.convert("RGBA")
    except (OSError, Image.DecompressionBombError):
        return None
    flat = Image.new("RGB", art.size, "white")
    flat.paste(art, mask=art.getchannel("A"))
    if not native:
        ink = np.asarray(flat, dtype=np.int16).min(axis=2) < 235
        if not ink.any():
            return None
        rows, cols = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        flat = flat.crop((cols[0], rows[0], cols[-1] + 1, rows[-1] + 1))
    room = SIZE if native else SIZE - 2
    scale = room / max(flat.size)
    size = tuple(max(1, round(side * scale)) for side in flat.size)
    if size != flat.size:
        flat = flat.resize(size, Image.Resampling.LANCZOS)
    page = Image.new("RGB", (SIZE, SIZE), "white")
    page.paste(flat, ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
    small = page.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    pixels = np.asarray(small.convert("RGB"), dtype=np.int16)
    if (pixels.min(axis=2) < 225).mean() < 0.02 or pixels.std() < 8 or min(size) < 9:
        return None
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return out.getvalue(), pixels


def read_titles(path: Path) -> dict[str, tuple[str, str]]:
    """Hand-made corrections: cleaned title -> (caption or '-', concept or '')."""
    table: dict[str, tuple[str, str]] = {}
    for line in need(path, "table of titles").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            part = line.split("\t") + ["", ""]
            table[part[0]] = (part[1], part[2])
    return table


SKIP_FOLDERS = re.compile(
    r"^(?:shapes/(?:stars|arrows|jigsaw|flowchart|callouts)|buttons|special|logos|"
    r"computer/(?:buttons|diagrams)|signs_and_symbols/(?:flags|led)|recreation/games/cards|"
    r"people/clothing/pantyhose|unsorted/duplicates)"
)
SET_TITLE = re.compile(
    r"^clipart by nicu|^etiquette icons|^r16 sib|^homes clipart|^sallite|^svg road signs|"
    r"^road signs|^various cliparts|^map symbols",
    re.I,
)
DROP_TITLE = re.compile(
    r"theme|icon collection|iconset|gramastar|^card$|^people$|advertising|australian maps|"
    r"aiga|hotel icon|@|untitled|rollandin|pattern$|button|template|corner|^collection|"
    r"^orleans|^coke|boating rules|diagram|pinout|font|desktop|web ?icons|^icons$",
    re.I,
)
OFFENSIVE = re.compile(
    r"sexy|strip(?:per)?$|nude|naked|cannabis|marijuana|\bgun\b|pistol|ak47|m16|rifle|bomb|"
    r"grenade|bullet|gallows|pimp|thong|lingerie|pantyhose|weapon|drug|drunk|cigar|"
    r"luther king|coltrane|einstein|leisler|\bkarl\b|illuminati|dead|kill|shit|\bpoo\b|"
    r"middle finger|bikini|nazi|swastika|hitler|babe|bad guy|chav|love hotel|syringe|"
    r"pregnan|breast|briefs|coffin|blood|skinhead|stupid",
    re.I,
)
PUBLIC_DOMAIN = re.compile(
    r'<cc:license[^>]*rdf:resource="https?://(?:web\.resource\.org/cc/PublicDomain|'
    r"creativecommons\.org/licenses/publicdomain)",
    re.I,
)


def metadata(svg: Path) -> tuple[str, str] | None:
    """Title and author from an SVG's Dublin Core block, if dedicated to the public domain."""
    text = svg.read_bytes().decode("utf-8", "replace")
    block = re.search(r"<metadata.*?</metadata>", text, re.S)
    if not block or not PUBLIC_DOMAIN.search(block.group(0)):
        return None
    title = re.search(r"<dc:title>(.*?)</dc:title>", block.group(0), re.S)
    made = re.search(r"<dc:creator>.*?<dc:title>(.*?)</dc:title>.*?</dc:creator>", block.group(0), re.S)
    name = html.unescape(made.group(1)).strip() if made else ""
    name = re.sub(r"\s+", " ", re.sub(r"[(<]?\S+@\S+[)>]?", "", name)).strip(" ,;-()")
    name = "" if name.lower() in ("public domain", "unknown", "") else name
    return (html.unescape(title.group(1)).strip() if title else "", name)


def clipart_caption(title: str, stem: str, folder: str, net: WordNet, table: dict[str, tuple[str, str]]) -> tuple[str, str] | str:
    """(caption, concept) for a drawing, or the reason why it is dropped."""
    if not title or DROP_TITLE.search(title):
        return "set, theme or no title"
    text = tidy(stem if SET_TITLE.search(title) else title)
    if SET_TITLE.search(title):
        text = re.sub(r" simple$", "", text)
    if title.lower().endswith("road signs"):
        if table.get(text, ("", ""))[0] == "-":
            return "dropped by the curated list"
        return f"{text} road sign", "road sign"
    text = re.sub(r"^contour (.*)", r"\1 outline", text)
    if SET_TITLE.search(title) and (folder == "icons" or re.search("symbol|gnome", text)):
        return "set, theme or no title"
    text = (
        " ".join(word if word in table or net.noun(word) else word.replace("-", " ") for word in text.split(" "))
        if text not in table
        else text
    )
    if OFFENSIVE.search(text) or OFFENSIVE.search(stem):
        return "unsuitable"
    caption, concept = table.get(f"{folder}:{text}", table.get(text, (text, "")))
    if caption == "-":
        return "dropped by the curated list"
    words = re.findall(r"[a-z']+", caption.lower())
    if not words or len(words) > 10 or len(caption) < 3:
        return "not a caption"
    if text not in table and not all(word in SMALL_WORDS or net.known(word.removesuffix("'s").strip("'")) for word in words):
        return "not English"
    caption = proper(caption, net)
    return caption, concept or concept_of(caption, net)


def read_clipart(
    svg_root: Path, png_root: Path, net: WordNet, table: dict[str, tuple[str, str]], dropped: Counter[str], notes: list[str]
) -> list[Picture]:
    """All usable Openclipart drawings, in path order."""
    svgs = locate(svg_root, "openclipart/svg", "openclipart-svg")
    pngs = locate(png_root, "openclipart/png", "openclipart-png")
    pictures = []
    for svg in sorted(svgs.rglob("*.svg")):
        name = svg.relative_to(svgs)
        png = (pngs / name).with_suffix(".png")
        if svg.is_symlink() or SKIP_FOLDERS.search(name.as_posix()) or not png.exists():
            dropped["clip art: link, folder not used or no PNG"] += 1
            continue
        found = metadata(svg)
        if not found:
            dropped["clip art: no public-domain statement"] += 1
            continue
        folder = "icons" if name.parts[1] == "icons" else name.parts[0]
        result = clipart_caption(found[0], svg.stem, folder, net, table)
        if isinstance(result, str):
            dropped[f"clip art: {result}"] += 1
            notes.append(f"{result}\t{name}\t{found[0]}")
            continue
        drawn = render(png, native=False)
        if not drawn:
            dropped["clip art: nearly empty, or too large to open"] += 1
            continue
        stem = re.sub(r"[_-]?(?:b_?n_?w|b_and_w|bw|colou?r)(?=_|$)", "", svg.stem.lower())
        pictures.append(
            Picture(
                drawn[0], *result, "openclipart", "public domain", found[1], name.as_posix(), f"{result[1]}/{found[1]}/{stem}", drawn[1]
            )
        )
    return pictures


EMOJI_SKIP = {
    ("Symbols", None),
    ("Flags", None),
    ("Component", None),
}
EMOJI_SKIP_NAMES = re.compile(
    r"FACING RIGHT|^CLOCK FACE|^FAMILY: |^KISS: |^COUPLE WITH HEART: |MIDDLE FINGER|^PISTOL|"
    r"^BOMB$|PILE OF POO|^CIGARETTE|SMOKING|LOVE HOTEL|BIKINI|SYRINGE|DROP OF BLOOD|"
    r"BREAST|^COFFIN|BRIEFS|DAGGER|HOCHO|PREGNANT|VOMITING",
    re.I,
)


def emoji_caption(row: dict, table: dict[str, tuple[str, str]], net: WordNet) -> tuple[str, str] | None:
    """(caption, concept) for an emoji, or None if it is not used."""
    kind, group, name = row["category"], row["subcategory"], row["name"] or row["short_name"]
    if (kind, None) in EMOJI_SKIP or EMOJI_SKIP_NAMES.search(name):
        return None
    text = re.sub(r"\s+", " ", name.replace("’", "'").lower()).strip()
    named = table.get(f"emoji:{text}")
    text = re.sub(r"^((?:wo)?man|person): ", r"\1 with ", text)
    text = re.sub(r" (?:symbol|sign)(?= |$)| sign$", "", text)
    text = re.sub(r"^(?:heavy |left-pointing |right-pointing )", "", text)
    caption, concept = named or table.get(f"emoji:{text}", table.get(text, (text, "")))
    if caption == "-":
        return None
    if group.startswith("animal-") and caption.endswith(" face") and not concept:
        concept = caption.removesuffix(" face")
    caption = proper(caption, net)
    if concept:
        return caption, concept
    if group.startswith("face-") and not re.search("ogre|goblin|ghost|alien|robot|skull|imp", caption):
        return caption, caption.lower()
    if group in ("cat-face", "monkey-face"):
        return caption, group.split("-")[0]
    return caption, concept_of(caption, net)


def read_emoji(root: Path, net: WordNet, table: dict[str, tuple[str, str]], dropped: Counter[str]) -> list[Picture]:
    """Noto emoji (base forms only), in code point order."""
    root = root / "package" if (root / "package").is_dir() else root
    listing = need(need(root, "emoji folder") / "emoji.json", "emoji list")
    pictures = []
    for row in sorted(json.loads(listing.read_text(encoding="utf-8")), key=lambda r: r["unified"]):
        png = root / "img" / "google" / "64" / row["image"]
        result = emoji_caption(row, table, net)
        if not result or not row["has_img_google"] or not png.exists():
            dropped["emoji: flag, symbol, clock face, mirrored or unsuitable"] += 1
            continue
        drawn = render(png, native=True)
        if not drawn:
            dropped["emoji: nearly empty"] += 1
            continue
        people = row["category"] == "People & Body"
        drawing = f"{result[1]}/noto" if people else f"{result[1]}/noto/{row['unified']}"
        pictures.append(Picture(drawn[0], *result, "noto-emoji", "Apache-2.0", "Google Noto", row["unified"], drawing, drawn[1]))
    return pictures


# ------------------------------------------------------------- duplicates


def fingerprint(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(shape bits, 8x8 colour thumbnail) of a picture."""
    picture = Image.fromarray(pixels.astype(np.uint8))
    grey = np.asarray(picture.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    tiny = np.asarray(picture.resize((8, 8), Image.Resampling.BOX), np.int16)
    return (np.abs(np.diff(grey, axis=1)) > 6).ravel() * np.sign(np.diff(grey, axis=1)).ravel(), tiny.ravel()


def drop_duplicates(pictures: list[Picture], dropped: Counter[str]) -> list[Picture]:
    """Drop pictures that look the same; link those that differ in colour only."""
    prints = [fingerprint(picture.pixels) for picture in pictures]
    shapes = np.stack([p[0] for p in prints]).astype(np.int16)
    tinies = np.stack([p[1] for p in prints])
    kept: list[int] = []
    for i, picture in enumerate(pictures):
        if kept:
            edges = ((shapes[kept] != 0) | (shapes[i] != 0)).sum(axis=1) + 1
            shape = (shapes[kept] != shapes[i]).sum(axis=1) / edges
            colour = np.abs(tinies[kept] - tinies[i]).mean(axis=1)
            if (((shape < 0.2) & (colour < 6)) | ((shape < 0.4) & (colour < 1))).any():
                dropped["duplicate or near duplicate"] += 1
                continue
            for j in np.flatnonzero((shape < 0.2) | (colour < 4)):  # twins, other colours
                twin = pictures[kept[int(j)]]
                if twin.concept == picture.concept:
                    picture.drawing = twin.drawing
        kept.append(i)
    return [pictures[i] for i in kept]


# ------------------------------------------------------------------ split


def merge_synonyms(pictures: list[Picture], net: WordNet) -> None:
    """Give concepts that are first-sense synonyms (car, automobile) one name."""
    tally = Counter(picture.concept for picture in pictures)
    groups: dict[str, list[str]] = defaultdict(list)
    for concept in sorted(tally):
        offset = net.first(concept)
        if offset and net.lexfile(concept) in DRAWABLE:
            groups[offset].append(concept)
    name = {c: min(group, key=lambda c: (-tally[c], c)) for group in groups.values() for c in group}
    for picture in pictures:
        picture.concept = name.get(picture.concept, picture.concept)


def head(concept: str) -> str:
    """The head noun of a concept: its last word."""
    return concept.split()[-1]


def limit_repeats(pictures: list[Picture], dropped: Counter[str]) -> list[Picture]:
    """At most MAX_REPEATS drawings with one caption by one author."""
    seen: Counter[tuple[str, str, str]] = Counter()
    kept = []
    for picture in pictures:
        key = (picture.source, picture.author, picture.caption)
        seen[key] += 1
        if seen[key] <= MAX_REPEATS:
            kept.append(picture)
        else:
            dropped["same title, same author, more than six times"] += 1
    return kept


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


def split_pictures(pictures: list[Picture], net: WordNet) -> None:
    """Set every picture's split: first whole concepts, then single pictures."""
    tally = Counter(picture.concept for picture in pictures)
    concepts = sorted(tally)
    up = {c: net.ancestors(net.first(c)) for c in concepts}
    held: set[str] = set()
    words = {c for c in concepts if net.lexfile(c) in DRAWABLE and c not in VAGUE}
    for word in sorted((w for w in words if " " not in w), key=ranked):
        family = closed_family(word, concepts, net, up)
        if len(held | family) > HELD_OUT_SHARE * len(concepts):
            continue
        if sum(tally[c] for c in family) <= MAX_FAMILY:
            held |= family
    groups: dict[str, dict[str, list[Picture]]] = defaultdict(lambda: defaultdict(list))
    for picture in pictures:
        if picture.concept in held:
            picture.split = "unseen_concept"
        else:
            groups[picture.concept][picture.drawing].append(picture)
    for concept, drawings in groups.items():
        if int(ranked("pick:" + concept)[:8], 16) / 2**32 > PICK_SHARE:
            continue
        if len(drawings) < 2 or concept in VAGUE or head(concept) in VAGUE:
            continue
        order = sorted(drawings, key=lambda key: ranked(concept + key))
        for key in order[: min(3, 1 + len(order) // 8)]:
            for picture in drawings[key]:
                picture.split = "unseen_picture"


# ------------------------------------------------------------------- text

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


def text_documents(net: WordNet) -> list[tuple[str, str]]:
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


def build_text(net: WordNet, out: Path) -> Counter[str]:
    """Write text.parquet and return counts."""
    rows: list[dict[str, str]] = []
    size = 0
    for title, text in text_documents(net):
        if size >= TEXT_BYTES:
            break
        size += len(text.encode())
        test = int(ranked("text:" + title.lower())[:8], 16) / 2**32 < TEST_SHARE
        rows.append({"title": title, "text": text, "source": "wordnet-3.0", "licence": "WordNet-3.0", "split": "test" if test else "train"})
    schema = pa.schema([(name, pa.string()) for name in ("title", "text", "source", "licence", "split")])
    pq.write_table(pa.Table.from_pylist(rows, schema), out / "text.parquet", compression="zstd", compression_level=19)
    counts = Counter(row["split"] for row in rows)
    counts["bytes"] = size
    return counts


# ------------------------------------------------------------------- main


def write_pictures(pictures: list[Picture], out: Path) -> None:
    """Write pictures.parquet."""
    names = ("image", "caption", "concept", "split", "source", "licence", "author", "original")
    schema = pa.schema([(n, pa.binary() if n == "image" else pa.string()) for n in names])
    table = pa.Table.from_pylist([{n: getattr(p, n) for n in names} for p in pictures], schema)
    pq.write_table(
        table, out / "pictures.parquet", compression="zstd", compression_level=19, use_dictionary=[n for n in names if n != "image"]
    )


def write_authors(pictures: list[Picture], out: Path) -> None:
    """List the picture authors, for attribution, beside the licence texts."""
    folder = out / "LICENSES"
    folder.mkdir(exist_ok=True)
    tally = Counter(p.author or "(not stated)" for p in pictures if p.source == "openclipart")
    lines = ["Authors of the Openclipart drawings in pictures.parquet, and how many of each.", ""]
    lines += [f"{count:4d}  {name}" for name, count in sorted(tally.items())]
    (folder / "openclipart-authors.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def report(pictures: list[Picture], dropped: Counter[str]) -> None:
    """Print the counts that README.md quotes."""
    for reason, count in sorted(dropped.items()):
        print(f"dropped  {count:6d}  {reason}")
    table = Counter((p.split, p.source) for p in pictures)
    for key, count in sorted(table.items()):
        print(f"pictures {count:6d}  {key[0]} / {key[1]}")
    print(
        f"pictures {len(pictures):6d}  total; {len({p.caption for p in pictures})} captions, "
        f"{len({p.concept for p in pictures})} concepts, "
        f"{len({p.concept for p in pictures if p.split == 'unseen_concept'})} held out"
    )


def build(args: argparse.Namespace) -> None:
    """Build both files."""
    net = read_wordnet(args.wordnet)
    table = read_titles(Path(__file__).resolve().parent / "titles.tsv")
    dropped: Counter[str] = Counter()
    notes: list[str] = []
    pictures = read_clipart(args.openclipart_svg, args.openclipart_png, net, table, dropped, notes)
    pictures += read_emoji(args.emoji, net, table, dropped)
    for picture in pictures:
        picture.concept = picture.concept.lower()
        picture.concept = table.get("=" + picture.concept, ("", picture.concept))[1]
    merge_synonyms(pictures, net)
    pictures = limit_repeats(pictures, dropped)
    pictures = drop_duplicates(pictures, dropped)
    split_pictures(pictures, net)
    args.out.mkdir(parents=True, exist_ok=True)
    write_pictures(pictures, args.out)
    write_authors(pictures, args.out)
    report(pictures, dropped)
    counts = build_text(net, args.out)
    print(f"text     {counts['train']} train + {counts['test']} test documents, {counts['bytes']} bytes")
    if args.notes:
        args.notes.write_text("\n".join(notes) + "\n", encoding="utf-8")


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("openclipart-svg", "openclipart-png", "emoji", "wordnet", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="DIR")
    parser.add_argument("--notes", type=Path, metavar="FILE", help="also list dropped drawings and why")
    try:
        build(parser.parse_args())
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
