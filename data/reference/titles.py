"""Titles of drawings, names of emoji and remarks on stamps, made into captions; what names nothing that is shown, or is unfit, is left out.

The curated table `configs/titles.tsv` has the last word.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from gato.data.formats.files import inside
from gato.data.formats.lines import lines, load_json

from .concepts import SMALL_WORDS, concept_of, proper, tidy
from .wordnet import WordNet

MAX_SVG_BYTES = 2**26


@dataclass(frozen=True)
class Titled:
    """A picture's file with its caption, the concept that this shows, and where it comes from.

    - `original`: its name in the source, such as the SVG's path or the emoji's code points.
    - `drawing`: a key that the variants of one drawing share.
    """

    path: Path
    caption: str
    concept: str
    author: str
    original: str
    drawing: str


def clipart(
    svgs: Path, pngs: Path, net: WordNet, table: Mapping[str, tuple[str, str]], dropped: Counter[str], notes: list[str] | None = None
) -> Iterator[Titled]:
    """Openclipart's usable drawings, in path order: the metadata lie in the SVG, the picture in the PNG of the same name.

    **Arguments:** `dropped` counts the others by reason; `notes` gets a line for each whose title is why.
    """
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
            if notes is not None:
                notes.append(f"{result}\t{name}\t{found[0]}")
            continue
        stem = re.sub(r"[_-]?(?:b_?n_?w|b_and_w|bw|colou?r)(?=_|$)", "", svg.stem.lower())
        yield Titled(png, *result, found[1], name.as_posix(), f"{result[1]}/{found[1]}/{stem}")


def emoji(
    listing: Path,
    pictures: Path,
    suffix: str,
    style: str,
    author: str,
    net: WordNet,
    table: Mapping[str, tuple[str, str]],
    dropped: Counter[str],
) -> Iterator[Titled]:
    """The usable emoji of one style (base forms only), in code point order.

    **Arguments:** `listing`: `emoji.json` of the emoji-datasource packages; `pictures`: folder of files named by code point.
    """
    for row in sorted(load_json(listing, list), key=lambda row: row["unified"]):
        picture = inside(pictures, row["image"], str(listing)).with_suffix(suffix)
        result = emoji_caption(row, table, net)
        if not result or not picture.exists():
            dropped["emoji: flag, symbol, clock face, mirrored or unsuitable"] += 1
            continue
        own = "" if row["category"] == "People & Body" else f"/{row['unified']}"
        yield Titled(picture, *result, author, row["unified"], f"{result[1]}/{style}{own}")


def stamps(root: Path, net: WordNet, table: Mapping[str, tuple[str, str]], dropped: Counter[str]) -> Iterator[Titled]:
    """Tux Paint's usable stamps: the first line of the text beside a picture is about it; the others are translations."""
    for picture in sorted(root.rglob("*.png")):
        text, name = picture.with_suffix(".txt"), picture.relative_to(root).as_posix()
        if picture.stem.endswith("_mirror"):
            dropped["stamps: mirrored copy"] += 1
            continue
        first = next(lines(text), ("", ""))[1] if text.is_file() else ""
        caption, concept = table.get(f"stamp:{name.removesuffix('.png')}", (stamp_caption(first, net), ""))
        if caption in ("", "-") or name.startswith("military/") or OFFENSIVE.search(caption):
            dropped["stamps: without a caption, military or unsuitable"] += 1
            continue
        shown = re.sub(r"^(?:an?|the|some|two) ", "", caption)
        concept = concept or (shown.lower() if re.search(r"\b(?:letter|number) ", shown) else concept_of(shown, net))
        yield Titled(picture, caption, concept, "Tux Paint's contributors", name, f"stamp/{name}")


def stamp_caption(text: str, net: WordNet) -> str:
    """ "A fire truck! Call it when..." -> "a fire truck": what is shown, without remarks and quotation marks."""
    text = re.sub(r"\s*\([^)]*\)|[\u201c\u201d\"]", "", text).strip()
    text = re.split(r"[.!?\u2026]+(?:\s|$)|\u2014| - ", text)[0].strip(" .\u2026\u2013")
    if text[1:2].islower() or text[1:2] == " ":  # not a name in capitals
        text = text[0].lower() + text[1:]
    return proper(text, net)


def titles_file() -> Path:
    return Path(str(resources.files("gato.configs").joinpath("titles.tsv")))


def read_titles() -> dict[str, tuple[str, str]]:
    """Hand-made corrections: cleaned title -> (caption or '-', concept or '')."""
    table: dict[str, tuple[str, str]] = {}
    for line in titles_file().read_text(encoding="utf-8").splitlines():
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
    if svg.stat().st_size > MAX_SVG_BYTES:
        return None
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


def clipart_caption(title: str, stem: str, folder: str, net: WordNet, table: Mapping[str, tuple[str, str]]) -> tuple[str, str] | str:
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


def emoji_caption(row: Mapping[str, Any], table: Mapping[str, tuple[str, str]], net: WordNet) -> tuple[str, str] | None:
    """(caption, concept) for an emoji, or None if it is not used."""
    kind, group, name = row["category"], row["subcategory"], row["name"] or row["short_name"]
    if (kind, None) in EMOJI_SKIP or EMOJI_SKIP_NAMES.search(name):
        return None
    text = re.sub(r"\s+", " ", name.replace("\u2019", "'").lower()).strip()
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
