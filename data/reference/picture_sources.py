"""Captioned pictures out of packages: Openclipart's drawings, emoji in several styles, Tux Paint's stamps.

A source is a function from unpacked packages to titled files; all of them are drawn by one rule. What cannot be
used is counted by reason, never passed over in silence.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from gato.picture import MAX_PIXELS, fit_image, read_image
from gato.progress import Progress

from .concepts import synonyms
from .packages import Package
from .titles import Titled, clipart, emoji, read_titles, stamps
from .wordnet import WordNet

SIZE = 64
PHOTO_COLOURS = 0.5  # distinct colours per pixel, above which a stamp is taken for a photograph

_PAPER = 235  # what is lighter than this in every colour is margin
_DRAWN = re.compile(  # stamps that have as many colours as photographs and are none, as a look at all of them showed
    r"cartoon|symbols|easter|newyears|hanukkah|planets|roadsigns/(?!railroad|traffic)|flags|hats|Santa|xmas_tp_bulb|hard_candy|button|toilet|pizza"
)

Table = Mapping[str, tuple[str, str]]
# the packages' folders by label, WordNet, the curated titles, the counter of what is left out -> files with captions
Read = Callable[[Mapping[str, Path], WordNet, Table, Counter[str]], Iterator[Titled]]


@dataclass(frozen=True)
class PictureSource:
    """Where captioned pictures come from: `packages` that are all needed, their `licence`, and `read`."""

    packages: tuple[Package, ...]
    licence: str
    read: Read


@dataclass
class Picture:
    """One captioned picture on its way into a store; `drawing` is shared by the variants of one drawing."""

    image: bytes
    caption: str
    concept: str
    source: str
    licence: str
    author: str
    original: str
    drawing: str
    is_photo: bool = False
    split: str = "train"


WORDNET = Package("apt", "wordnet-base", r"usr/share/wordnet/.*")
_SVG = Package("apt", "openclipart-svg", r".*\.svg")
_PNG = Package("apt", "openclipart-png", r".*\.png", copies_links=True)  # drawings that look the same share a file
_STAMPS = Package("apt", "tuxpaint-stamps-default", r".*/stamps/.*\.(png|txt)")
_NOTO = Package(
    "npm",
    "emoji-datasource-google@16.0.0",
    r"package/(emoji\.json|img/google/64/.*\.png)",
    sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
)
_TWITTER = Package(
    "npm",
    "emoji-datasource-twitter@16.0.0",
    r"package/(emoji\.json|img/twitter/64/.*\.png)",
    sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
)
_FLUENT = Package(
    "npm",
    "@lobehub/fluent-emoji-3d@1.1.0",
    r"package/assets/.*\.webp",
    sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)


def _clipart(folders: Mapping[str, Path], net: WordNet, table: Table, left_out: Counter[str]) -> Iterator[Titled]:
    svgs, pngs = (folders[f"openclipart-{kind}"] / "usr/share/openclipart" / kind for kind in ("svg", "png"))
    return clipart(svgs, pngs, net, table, left_out)


def _emoji(listing: str, label: str, folder: str, suffix: str, style: str, author: str) -> Read:
    def read(folders: Mapping[str, Path], net: WordNet, table: Table, left_out: Counter[str]) -> Iterator[Titled]:
        return emoji(folders[listing] / "package/emoji.json", folders[label] / folder, suffix, style, author, net, table, left_out)

    return read


def _stamps(folders: Mapping[str, Path], net: WordNet, table: Table, left_out: Counter[str]) -> Iterator[Titled]:
    root = folders["tuxpaint-stamps-default"] / "usr/share/tuxpaint/stamps"
    return stamps(root, net, table, left_out)


SOURCES: dict[str, PictureSource] = {
    "openclipart": PictureSource((_SVG, _PNG), "public domain", _clipart),
    "noto-emoji": PictureSource(
        (_NOTO,),
        "Apache-2.0",
        _emoji("emoji-datasource-google", "emoji-datasource-google", "package/img/google/64", ".png", "noto", "Google Noto"),
    ),
    "twitter-emoji": PictureSource(
        (_TWITTER,),
        "CC-BY-4.0",
        _emoji("emoji-datasource-twitter", "emoji-datasource-twitter", "package/img/twitter/64", ".png", "twitter", "Twitter"),
    ),
    "fluent-emoji": PictureSource(
        (_NOTO, _FLUENT),
        "MIT",
        _emoji("emoji-datasource-google", "@lobehub/fluent-emoji-3d", "package/assets", ".webp", "fluent", "Microsoft"),
    ),
    "tuxpaint-stamps": PictureSource((_STAMPS,), "GPL-2.0", _stamps),
}


def read_pictures(
    sources: Mapping[str, PictureSource], folders: Mapping[str, Path], net: WordNet, limit: int | None, left_out: Counter[str]
) -> list[Picture]:
    """The pictures of all sources, whose concepts then have one name where they are synonyms.

    **Arguments:** `folders`: of the unpacked packages, by label; `limit`: pictures per source, spread over it; `left_out`
    counts by reason what is not used.
    """
    table, found = read_titles(), []
    for name, source in sources.items():
        titled = list(source.read(folders, net, table, left_out))
        if limit is not None and len(titled) > limit:
            left_out[f"{name}: more than the {limit} of the small scale"] += len(titled) - limit
            titled = list(islice(titled, 0, None, -(-len(titled) // limit)))
        with Progress(name, len(titled), "picture") as progress:
            for one in titled:
                progress.advance()
                if (drawn := draw(one.path)) is None:
                    left_out[f"{name}: nearly empty, too large or not readable"] += 1
                    continue
                is_photo = name == "tuxpaint-stamps" and drawn[1] and not _DRAWN.search(one.original)
                found.append(
                    Picture(
                        drawn[0], one.caption, one.concept.lower(), name, source.licence, one.author, one.original, one.drawing, is_photo
                    )
                )
    renamed = {key[1:]: concept for key, (_, concept) in table.items() if key.startswith("=")}
    found = [replace(p, concept=renamed.get(p.concept, p.concept)) for p in found]
    names = synonyms(Counter(p.concept for p in found), net)
    return [replace(p, concept=names.get(p.concept, p.concept)) for p in found]


def draw(path: Path) -> tuple[bytes, bool] | None:
    """A picture without its margin, fitted into 64x64 on white, as PNG; and whether it has as many colours as a photograph.

    **Returns:** `None` where there is nearly nothing to see, or the file cannot be read.
    """
    pixels = without_margin(path)
    if pixels is None:
        return None
    fitted = fit_image(pixels, (SIZE, SIZE))
    inked = fitted[fitted.min(axis=2) < _PAPER]
    if len(inked) < 0.02 * SIZE * SIZE or fitted.std() < 8:
        return None
    buffer = io.BytesIO()
    Image.fromarray(fitted).save(buffer, "PNG")
    return buffer.getvalue(), bool(len(np.unique(inked, axis=0)) > PHOTO_COLOURS * len(inked))


def without_margin(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray | None:
    """A picture (rows, columns, 3) uint8 on white, cut to what is not nearly white; `None` where that is nothing or it cannot be read."""
    try:
        pixels = read_image(path, max_pixels)
    except ValueError:
        return None
    ink = pixels.min(axis=2) < _PAPER
    if not ink.any():
        return None
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
