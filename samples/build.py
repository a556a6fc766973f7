#!/usr/bin/env python3
"""Build the sample pack: captioned pictures and English text, as two parquet files.

Usage:
    python samples/build.py --openclipart-svg DIR --openclipart-png DIR \
        --emoji DIR --wordnet DIR --out samples

Each DIR is an unpacked package (Debian openclipart-svg, openclipart-png and
wordnet-base; npm emoji-datasource-google).  Nothing is fetched.  The result
depends only on the inputs, on configs/titles.tsv and on the
versions of pillow and pyarrow: there is no clock and no random state.
README.md says what the columns mean and how the split works.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gato.data.reference.concepts import VAGUE, closed_family, head, ranked, share, synonyms
from gato.data.reference.picture_sources import Picture, without_margin
from gato.data.reference.titles import Titled, clipart, emoji, read_titles
from gato.data.reference.wordnet import DRAWABLE, WordNet, documents, read_wordnet
from gato.picture import read_image

SIZE = 64
COLOURS = 64
HELD_OUT_SHARE = 0.08  # share of concepts kept out of training altogether
PICK_SHARE = 0.8  # share of many-picture concepts that lend an unseen picture
MAX_REPEATS = 6  # drawings with one caption by one author
MAX_FAMILY = 12  # a held-out family holds at most this many pictures
TEXT_BYTES = 1_450_000
MAX_PIXELS = 178_000_000  # a few PNGs are huge
TEST_SHARE = 0.05  # share of text documents in the test split

# ----------------------------------------------------------------- helpers


def need(path: Path, what: str) -> Path:
    """Return path, or stop with a one-line error when it is missing."""
    if not path.exists():
        raise ValueError(f"{what} not found: {path}")
    return path


def locate(root: Path, tail: str, what: str) -> Path:
    """Find `tail` under an unpacked package: directly, or below usr/share."""
    need(root, f"{what} folder")
    for candidate in (root / tail, root / "usr" / "share" / tail, root):
        if candidate.is_dir() and (candidate.name == Path(tail).name):
            return candidate
    raise ValueError(f"{what}: no folder '{tail}' under {root}")


# ------------------------------------------------------------------ pictures


def render(path: Path, native: bool) -> bytes | None:
    """Draw a picture on white, 64x64, at most 64 colours, as PNG; None if nearly empty or unreadable.

    A native picture has the pack's size already and keeps its margin.
    """
    art = read_image(path) if native else without_margin(path, MAX_PIXELS)
    if art is None:
        return None
    flat = Image.fromarray(art)
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
    return out.getvalue()


def read_clipart(
    svg_root: Path, png_root: Path, net: WordNet, table: dict[str, tuple[str, str]], dropped: Counter[str], notes: list[str]
) -> list[Picture]:
    """All usable Openclipart drawings, in path order."""
    svgs = locate(svg_root, "openclipart/svg", "openclipart-svg")
    pngs = locate(png_root, "openclipart/png", "openclipart-png")
    found = clipart(svgs, pngs, net, table, dropped, notes)
    return drawn(found, False, "openclipart", "public domain", "clip art: nearly empty, or too large to open", dropped)


def read_emoji(root: Path, net: WordNet, table: dict[str, tuple[str, str]], dropped: Counter[str]) -> list[Picture]:
    """Noto emoji (base forms only), in code point order."""
    root = root / "package" if (root / "package").is_dir() else root
    listing = need(need(root, "emoji folder") / "emoji.json", "emoji list")
    found = emoji(listing, root / "img" / "google" / "64", ".png", "noto", "Google Noto", net, table, dropped)
    return drawn(found, True, "noto-emoji", "Apache-2.0", "emoji: nearly empty", dropped)


def drawn(found: Iterable[Titled], native: bool, source: str, licence: str, reason: str, dropped: Counter[str]) -> list[Picture]:
    """The pictures of titled files; those that cannot be drawn are counted under the reason."""
    pictures = []
    for one in found:
        image = render(one.path, native)
        if image:
            pictures.append(Picture(image, one.caption, one.concept, source, licence, one.author, one.original, one.drawing))
        else:
            dropped[reason] += 1
    return pictures


# ------------------------------------------------------------- duplicates


def fingerprint(image: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(shape bits, 8x8 colour thumbnail) of a picture."""
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    grey = np.asarray(picture.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    tiny = np.asarray(picture.resize((8, 8), Image.Resampling.BOX), np.int16)
    return (np.abs(np.diff(grey, axis=1)) > 6).ravel() * np.sign(np.diff(grey, axis=1)).ravel(), tiny.ravel()


def drop_duplicates(pictures: list[Picture], dropped: Counter[str]) -> list[Picture]:
    """Drop pictures that look the same; link those that differ in colour only."""
    prints = [fingerprint(picture.image) for picture in pictures]
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
        if share("pick:" + concept) > PICK_SHARE:
            continue
        if len(drawings) < 2 or concept in VAGUE or head(concept) in VAGUE:
            continue
        order = sorted(drawings, key=lambda key: ranked(concept + key))
        for key in order[: min(3, 1 + len(order) // 8)]:
            for picture in drawings[key]:
                picture.split = "unseen_picture"


# ------------------------------------------------------------------- text


def build_text(net: WordNet, out: Path) -> Counter[str]:
    """Write text.parquet and return counts."""
    rows: list[dict[str, str]] = []
    size = 0
    for title, text in documents(net):
        if size >= TEXT_BYTES:
            break
        size += len(text.encode())
        test = share("text:" + title.lower()) < TEST_SHARE
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
    net = read_wordnet(locate(args.wordnet, "wordnet", "WordNet"))
    table = read_titles()
    dropped: Counter[str] = Counter()
    notes: list[str] = []
    pictures = read_clipart(args.openclipart_svg, args.openclipart_png, net, table, dropped, notes)
    pictures += read_emoji(args.emoji, net, table, dropped)
    for picture in pictures:
        picture.concept = picture.concept.lower()
        picture.concept = table.get("=" + picture.concept, ("", picture.concept))[1]
    name = synonyms(Counter(picture.concept for picture in pictures), net)
    for picture in pictures:
        picture.concept = name.get(picture.concept, picture.concept)
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
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
