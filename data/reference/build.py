"""The reference mixture in one command: experts' episodes, captioned pictures, documents, as stores.

    OUT/family/task                        control, as `gato data collect` records it
    OUT/reference/pictures/SPLIT           captioned pictures (picture_splits.py says what the splits hold)
    OUT/reference/questions/SPLIT          questions about them, made by templates
    OUT/reference/text/SOURCE/train|test   documents
    OUT/reference/packages                 what was fetched; not needed any more once all is built
    OUT/reference/mixture.yaml             the data of the recipe `reference`, as far as it is there

Everything is optional: what cannot be had is said in one line, and the rest is built. Parts are built aside and
renamed, so that a killed run leaves nothing that looks complete, and the next one goes on after the finished parts.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from gato import envs
from gato.data.collection.collect import CollectConfig, collect
from gato.data.formats.dataset import Dataset, import_dataset
from gato.data.formats.lines import load_json
from gato.data.formats.pictures import PicturesReader
from gato.data.formats.text import TextReader
from gato.data.formats.vqa import VqaReader
from gato.data.shards.table import TEMPORARY
from gato.data.store import Store
from gato.data.stores import stores_folder
from gato.lock import FolderLock
from gato.setting import MAX_WORKERS, Settings, bounded

from . import picture_sources, text_sources
from .packages import Missing, Package, fetch
from .picture_sources import Picture, PictureSource, read_pictures
from .picture_splits import HeldOut, drop_lookalikes, split_pictures
from .questions import template_questions
from .text_sources import TextSource, document_rows
from .wordnet import read_wordnet

Part = Literal["control", "pictures", "text"]
PARTS: tuple[Part, ...] = ("control", "pictures", "text")

SMALL_PICTURES = 300  # of each source
SMALL_DOCUMENTS = 2000  # of each source
SMALL_CONTROL = {"gymnasium/cartpole": 20, "gymnasium/mountain-car-continuous": 20, "babyai/go-to-local": 50, "metaworld/reach": 5}
# Episodes at full scale, of a family's tasks or of one task. BabyAI is symbolic but for two levels (pictures of all 90 would take 25 GB);
# Atari, MinAtar and the ball in the cup are planned on copies of the simulator, up to minutes an episode.
FULL_CONTROL = {
    "atari": 4, "babyai-symbolic": 400, "babyai-view": 3000, "dm-control": 100, "gymnasium": 200, "metaworld": 100, "minatar": 4,
    "mujoco": 100, "robotics": 120,
    "babyai/go-to-local": 1000, "babyai/pickup-loc": 1000, "dm-control/ball-in-cup-catch": 20,
    "gymnasium/lunar-lander": 600, "gymnasium/pendulum": 600,
}  # fmt: skip
# Share of noisy episodes, and how long a random action is held: where forces move a body, one timestep of noise leads nowhere
# new. None in babyai-view, whose actions are descriptions.
NOISE = {"babyai-view": (0.0, 1), "gymnasium": (0.5, 1), "dm-control": (0.5, 5), "metaworld": (0.5, 5), "mujoco": (0.5, 5)}
OTHER_NOISE = (0.25, 1)

_NOTE = "part.json"
_ROWS = 1000  # written at once


@dataclass(frozen=True)
class ReferenceConfig(Settings):
    """What `gato data reference` builds.

    - `parts`: which of control, pictures and text.
    - `scale`: `full`, or `small`: a few tasks, and the first few hundred of everything else.
    - `out`: folder of the stores; the stores folder where it is not given.
    - `workers`: processes in which experts act.
    """

    parts: list[Part] = field(default_factory=lambda: list(PARTS))
    scale: Literal["small", "full"] = "full"
    out: Path | None = None
    workers: int = bounded(1, 0, MAX_WORKERS)


@dataclass
class Built:
    """What a run built or found.

    - `stores`: a row each: `part`, `source`, `split`, `episodes`, `store`.
    - `missing`: a line for each thing that could not be had, with what to do.
    - `left_out`: counts by reason; `mixture`: the mixture file.
    """

    stores: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    mixture: str | None = None

    def add(self, part: str, source: str, split: str, episodes: int, store: Path) -> None:
        self.stores.append({"part": part, "source": source, "split": split, "episodes": episodes, "store": str(store)})


def build(
    config: ReferenceConfig,
    pictures: Mapping[str, PictureSource] = picture_sources.SOURCES,
    texts: Mapping[str, TextSource] = text_sources.SOURCES,
) -> Built:
    """Builds the parts that are not there yet.

    **Arguments:** `pictures`, `texts`: where they come from.

    **Raises:** `ValueError` if another process builds in the folder, if a part was built at another scale, or if
    nothing at all could be built.
    """
    root = stores_folder() if config.out is None else Path(config.out)
    home, built = root / "reference", Built()
    home.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(home)
    try:
        if "pictures" in config.parts:
            _build_pictures(home, config.scale, pictures, built)
            if any(row["part"] == "pictures" for row in built.stores):
                _build_questions(home, config.scale, built)
        if "text" in config.parts:
            for name, source in texts.items():
                _build_text(home, config.scale, name, source, built)
        if "control" in config.parts:
            _collect(root, config, built)
        if not built.stores:
            raise ValueError(f"nothing could be built: {'; '.join(built.missing)}")
        built.mixture = str(_write_mixture(root, home / "mixture.yaml", built))
    finally:
        lock.release()
    return built


def control_episodes(scale: Literal["small", "full"]) -> dict[str, int]:
    """`{task: episodes}` that a scale collects; held-out tasks too, since few-shot learning needs their demonstrations."""
    if scale == "small":
        return SMALL_CONTROL
    names = [name for name in envs.tasks() if envs.expert_name(name) is not None]
    wanted = {name: FULL_CONTROL.get(name, FULL_CONTROL.get(name.split("/")[0])) for name in names}
    return {name: episodes for name, episodes in wanted.items() if episodes is not None}


def _collect(root: Path, config: ReferenceConfig, built: Built) -> None:
    without: set[str] = set()  # families whose simulator is missing
    for name, episodes in control_episodes(config.scale).items():
        family = name.split("/")[0]
        if family in without:
            continue
        try:
            share, steps = NOISE.get(family, OTHER_NOISE)
            settings = CollectConfig([name], episodes, noisy_share=share, noise_steps=steps, workers=config.workers, out=root)
            rows = collect(settings)
        except ImportError as error:
            without.add(family)
            built.missing.append(f"family '{family}': {' '.join(str(error).split())}")
        except (ValueError, RuntimeError) as error:
            built.missing.append(f"task '{name}': {' '.join(str(error).split())}")
        else:
            built.add("control", name, "all", rows[0]["episodes"], Path(rows[0]["store"]))
            built.left_out[f"{name}: episodes rejected or failed"] += rows[0]["rejected"] + rows[0]["failed"]
    built.left_out = +built.left_out


def _build_pictures(home: Path, scale: str, sources: Mapping[str, PictureSource], built: Built) -> None:
    def make(partial: Path) -> dict[str, Any]:
        left_out: Counter[str] = Counter()
        shutil.rmtree(home / "questions", ignore_errors=True)  # those of an earlier build are about other pictures
        wanted = [picture_sources.WORDNET, *(package for source in sources.values() for package in source.packages)]
        folders, notes, missing = _fetched(wanted, home)
        if picture_sources.WORDNET.label not in folders:
            raise Missing(f"pictures need WordNet for their concepts: {missing[picture_sources.WORDNET.label]}")
        usable = {name: s for name, s in sources.items() if all(package.label in folders for package in s.packages)}
        if not usable:
            raise Missing(f"pictures: {'; '.join(missing.values())}")
        net = read_wordnet(folders[picture_sources.WORDNET.label] / "usr/share/wordnet")
        found = read_pictures(usable, folders, net, SMALL_PICTURES if scale == "small" else None, left_out)
        pictures = split_pictures(found, HeldOut.load(), net, left_out)
        by_split = {split: [p for p in pictures if p.split == split] for split in sorted({p.split for p in pictures})}
        first = _import_pictures(by_split, partial / "first", notes)
        by_split, dropped = drop_lookalikes(by_split, {split: Store(folder) for split, folder in first.items()})
        shutil.rmtree(partial / "first")
        left_out.update(dropped)
        _import_pictures(by_split, partial / "stores", notes)
        counts = Counter((p.source, split) for split, them in by_split.items() for p in them)
        rows = [[source, split, count] for (source, split), count in sorted(counts.items())]
        return {"missing": list(missing.values()), "left_out": +left_out, "counts": rows}

    _part(home / "pictures", scale, built, make)


def _build_questions(home: Path, scale: str, built: Built) -> None:
    """Needs the pictures; those of a split make questions of that split."""

    def make(partial: Path) -> dict[str, Any]:
        folders, notes, missing = _fetched([picture_sources.WORDNET], home)
        if missing:
            raise Missing(f"questions about pictures: {'; '.join(missing.values())}")
        net = read_wordnet(folders[picture_sources.WORDNET.label] / "usr/share/wordnet")
        stores = {folder.parent.name: Store(folder.parent) for folder in sorted((home / "pictures").glob("*/manifest.json"))}
        if "train" not in stores:
            raise Missing("questions about pictures: no picture is left to train on")
        table = _write_table(partial / "questions.parquet", template_questions(stores, net))
        made = _import(VqaReader().open(table), partial / "stores", notes)
        table.unlink()
        return {"missing": [], "left_out": {}, "counts": [["templates", split, Store(store).num_episodes] for split, store in made.items()]}

    _part(home / "questions", scale, built, make)


def _build_text(home: Path, scale: str, name: str, source: TextSource, built: Built) -> None:
    def make(partial: Path) -> dict[str, Any]:
        left_out: Counter[str] = Counter()
        folders, notes, missing = _fetched([source.package], home)
        if missing:
            raise Missing(f"text of '{name}': {'; '.join(missing.values())}")
        found = document_rows(name, source, folders[source.package.label], SMALL_DOCUMENTS if scale == "small" else None, left_out)
        table = _write_table(partial / f"{name}.parquet", found)
        stores = _import(TextReader().open(table), partial / "stores", notes)
        table.unlink()
        rows = [[name, split, Store(store).num_episodes] for split, store in stores.items()]
        return {"missing": [], "left_out": +left_out, "counts": rows}

    _part(home / "text" / name, scale, built, make)


def _part(folder: Path, scale: str, built: Built, make: Callable[[Path], dict[str, Any]]) -> None:
    """Makes the stores of a part aside and renames them, unless they are there; adds them to what was built.

    **Arguments:** `make`: writes `stores` into a folder; returns `missing`, `left_out` and `counts` (source, split, episodes).
    """
    if not (folder / _NOTE).is_file():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            note = {"scale": scale, **make(partial)}
            (partial / "stores" / _NOTE).write_text(json.dumps(note, indent=1), encoding="utf-8")
            (partial / "stores").rename(folder)
        except (Missing, ValueError) as error:  # a damaged package: the other parts do not need it
            built.missing.append(str(error))
            return
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    note = load_json(folder / _NOTE)
    if note["scale"] != scale:
        raise ValueError(
            f"{folder} was built at scale {note['scale']}, not {scale}; remove it to build it again, or build into another folder"
        )
    built.missing += [f"{line} ({folder} was built without it; remove the folder to build it again)" for line in note["missing"]]
    built.left_out.update(note["left_out"])
    for source, split, episodes in note["counts"]:
        built.add("text" if folder.parent.name == "text" else folder.name, source, split, episodes, folder / split)


def _fetched(packages: Iterable[Package], home: Path) -> tuple[dict[str, Path], dict[str, dict[str, Any]], dict[str, str]]:
    """Folders and notes of the packages that could be had, by label, and a line for each of the others."""
    folders, notes, missing = {}, {}, {}
    for package in dict.fromkeys(packages):
        try:
            folders[package.label], notes[package.label] = fetch(package, home / "packages")
        except (Missing, ValueError) as error:
            missing[package.label] = str(error)
    return folders, notes, missing


def _import_pictures(by_split: Mapping[str, Sequence[Picture]], folder: Path, notes: Mapping[str, Any]) -> dict[str, Path]:
    names = ("image", "caption", "concept", "source", "licence", "author", "original")
    rows = ({name: getattr(p, name) for name in names} | {"split": split} for split, them in by_split.items() for p in them)
    table = _write_table(folder.with_name("reference.parquet"), rows)
    stores = _import(PicturesReader().open(table), folder, notes)
    table.unlink()
    return stores


def _import(dataset: Dataset, folder: Path, notes: Mapping[str, Any]) -> dict[str, Path]:
    return import_dataset(replace(dataset, provenance={**dataset.provenance, "packages": dict(notes)}), folder)


def _write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A parquet file of rows of equal keys: `image` holds bytes, all others text."""
    writer, waiting = None, iter(rows)
    try:
        while some := list(islice(waiting, _ROWS)):
            schema = pa.schema([(name, pa.binary() if name == "image" else pa.string()) for name in some[0]])
            writer = writer or pq.ParquetWriter(path, schema)
            writer.write_table(pa.Table.from_pylist(some, schema))
    finally:
        if writer:
            writer.close()
    if writer is None:
        raise Missing(f"{path.stem}: the packages hold nothing that can be used")
    return path


def _write_mixture(root: Path, path: Path, built: Built) -> Path:
    """The recipe's data with the sources that are there, each with its folder; how many are not is counted."""
    import yaml

    recipe = resources.files("gato.configs").joinpath("reference.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(recipe)["data"]
    there = {name: options for name, options in data["sources"].items() if (root / name / "manifest.json").is_file()}
    if absent := len(data["sources"]) - len(there):
        built.left_out["sources of the recipe that are not built"] = absent
    data["sources"] = {name: {**options, "store": str((root / name).absolute())} for name, options in there.items()}
    temporary = path.with_name(path.name + TEMPORARY)
    head = "# The reference mixture as far as it is built: gato data inspect FILE; gato pretrain reference --data FILE\n"
    temporary.write_text(head + yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    temporary.replace(path)
    return path
