"""`gato data ...` and `gato tokenizer train`: stores, formats, and the text tokenizer made from them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from gato.setting import Limits

from .command import one_line, open_store, parse, parser_of, place_of_name, print_rows, table
from .output import write_document

MAX_NAMED = 20  # bad rows that an import prints


def collect(arguments: list[str]) -> None:
    parser = parser_of("data collect", "Let experts act and store their episodes, one store per task.")
    from gato.data.collection.collect import CollectConfig, collect
    from gato.data.collection.from_policy import collect_policy, tasks_of

    parser.add_argument("tasks", nargs="*", type=str, help="names such as gymnasium/cartpole; with --policy by default its own")
    parser.add_config(CollectConfig, skip={"tasks"})
    parser.add_argument("--policy", type=Path, default=None, help="run or checkpoint whose policy plays in the expert's place")
    options = vars(parse(parser, arguments))
    as_json, policy = options.pop("json"), options.pop("policy")
    if policy is not None and options["expert"] is not None:
        raise ValueError(f"--policy {policy} and --expert {options['expert']} are both given; who is to play?")
    if policy is not None and not options["tasks"]:
        options["tasks"] = tasks_of(policy)
    config = CollectConfig(**options)
    rows = collect(config) if policy is None else collect_policy(config, policy)
    keep = ["task", "episodes", "timesteps", "noisy", "rejected", "failed", "expert_return", "noisy_return"]
    keep += ["played_as"] if policy is not None else []
    keep += ["other_return"] if any("other_return" in row for row in rows) else []
    print_rows(rows, as_json, lambda: table([{k: row.get(k) for k in keep} for row in rows]))


def reference(arguments: list[str]) -> None:
    parser = parser_of(
        "data reference", "Fetch packages with apt-get, npm and pip as you configured them, and build the reference mixture."
    )
    from dataclasses import asdict

    from gato.data.reference.build import PARTS, ReferenceConfig, build

    parser.add_argument("--parts", nargs="+", type=str, choices=PARTS, default=list(PARTS), help="which parts (default: all)")
    parser.add_config(ReferenceConfig, skip={"parts"})
    options = parse(parser, arguments)
    as_json = vars(options).pop("json")
    built = build(ReferenceConfig(**vars(options)))
    lines = [f"left out: {count} {reason}" for reason, count in sorted(built.left_out.items())]
    lines += [f"missing: {line}" for line in built.missing] + [f"mixture: {built.mixture}"]
    print_rows(asdict(built), as_json, lambda: "\n".join([table(built.stores), *lines]))


def similar(arguments: list[str]) -> None:
    parser = parser_of("data similar", "The nearest known tasks of every task in a store, by its demonstrations.")
    parser.add_argument("store", type=str, help="name or folder")
    by = parser.add_mutually_exclusive_group(required=True)
    by.add_argument("--checkpoint", type=Path, help="of TecNets, such as runs/tecnets-reach2d/final: by its embedding")
    by.add_argument("--known", type=str, help="store of known tasks: by means, spreads and changes of the numbers that are observed")
    measured = "folders of `gato finetune --modes full scratch`: what pretraining on those tasks brought there"
    parser.add_argument("--measured", type=Path, nargs="+", default=[], help=measured)
    parser.add_option("--demonstrations", int, 1, Limits(1, 10_000), "of each task that are looked at")
    parser.add_option("--count", int, 5, Limits(1, 10_000), "nearest tasks of each")
    options = parse(parser, arguments)
    from gato.eval.insight.gains import gains, with_gains
    from gato.eval.insight.similar import similar as nearest
    from gato.eval.insight.similar import similar_by_statistics

    found, how = gains(options.measured), (options.demonstrations, options.count)
    if options.checkpoint is None:
        rows = similar_by_statistics(options.store, options.known, *how)
    else:
        rows = nearest(options.store, options.checkpoint, *how)
    rows = with_gains(rows, found) if found else rows
    print_rows(rows, options.json, lambda: table(rows))


def import_(arguments: list[str]) -> None:
    from gato.data.formats.dataset import READERS, import_dataset, reader
    from gato.data.formats.left_out import MAX_SKIP, LeftOut
    from gato.data.inspection.doubts import doubts_of
    from gato.data.store import Store
    from gato.data.stores import stores_folder

    kind, arguments = _format_of(arguments, "import", "PATH", READERS)
    if kind is None:
        return
    parser = parser_of(f"data import {kind}", "Bring a dataset into stores, one per split.")
    parser.add_argument("path", type=Path, help="the dataset's file or folder")
    parser.add_argument("--out", type=Path, help=f"folder of the stores (default: '{kind}' in the stores folder)")
    parser.add_argument("--splits", type=str, nargs="+", default=None, help="which splits, one store each (default: all)")
    parser.add_option("--skip", int, 0, Limits(0, MAX_SKIP), "how many bad rows may be left out; each is named (default: 0)")
    parser.add_config(reader(kind))
    options = vars(parse(parser, arguments))
    path, out, splits, skip, as_json = (options.pop(key) for key in ("path", "out", "splits", "skip", "json"))
    left_out, made = LeftOut(skip), cast("Any", reader(kind)(**options))
    if kind == "recordings" and out is None and options["spec"] is None:
        spec = made.first_spec(path)
        print_rows({"spec": spec}, as_json, lambda: spec)
        return _say_how_to_go_on(path)
    dataset = made.open(path, left_out)
    folders = import_dataset(dataset, out or stores_folder() / kind, splits)
    taken = dataset.provenance.get("taken", [])
    rows, doubts = [], []
    for split, folder in folders.items():
        store = Store(folder)
        doubts += doubts_of(store) if kind == "recordings" else []
        skipped = [x["row"] for x in store.manifest.provenance.get("skipped", [])]
        rows.append({"split": split, "episodes": store.num_episodes, "folder": folder, **left_out.notes(), "skipped": skipped})
    lines = [
        *map(_imported, rows),
        *(["read: " + "; ".join(taken)] if taken else []),
        *([f"rewards: {unpaid}"] if (unpaid := dataset.provenance.get("rewards")) else []),
        *dict.fromkeys(doubts),
        *left_out.lines(),
        *_skipped(rows),
    ]
    print_rows(rows, as_json, lambda: "\n".join(lines))


def _say_how_to_go_on(path: Path) -> None:
    """Beside a printed spec, which may go to a file."""
    then = f"gato data import recordings {shlex.quote(str(path))} --spec spec.yaml --out STORE"
    print(f"gato: a spec is printed: save it (> spec.yaml), check it, and import with '{then}'", file=sys.stderr)


def _imported(row: dict[str, Any]) -> str:
    return f"{row['split']}: {row['episodes']} episodes: {row['folder']}"


def _skipped(rows: list[dict[str, Any]]) -> list[str]:
    """The bad rows of all splits, each once."""
    bad = list(dict.fromkeys(row for of_split in rows for row in of_split["skipped"]))
    lines = [f"skipped: {row}" for row in bad[:MAX_NAMED]]
    return lines + [f"skipped: {len(bad) - MAX_NAMED} more, named in the manifests"] * (len(bad) > MAX_NAMED)


def export(arguments: list[str]) -> None:
    from gato.data.formats.dataset import WRITERS, writer

    kind, arguments = _format_of(arguments, "export", "OUT STORE...", WRITERS)
    if kind is None:
        return
    parser = parser_of(f"data export {kind}", "Write stores as a dataset of another format.")
    parser.add_argument("out", type=Path, help="the new dataset's folder")
    parser.add_argument("stores", nargs="+", type=str, help="names or folders")
    parser.add_config(writer(kind))
    options = vars(parse(parser, arguments))
    out, stores, as_json = (options.pop(key) for key in ("out", "stores", "json"))
    counts = writer(kind)(**options).write([open_store(name) for name in stores], out)
    print_rows(counts, as_json, lambda: f"{out}: " + ", ".join(f"{value} {key}" for key, value in counts.items()))


def _format_of(arguments: list[str], verb: str, rest: str, formats: Any) -> tuple[str | None, list[str]]:
    """The format, and the other words; `None` where help was asked for, and printed. **Raises:** `ValueError` if no word is a format."""
    place = place_of_name(arguments, formats.__contains__)
    if place is not None and arguments[place] in formats:
        return arguments[place], arguments[:place] + arguments[place + 1 :]
    if not {"-h", "--help"} & set(arguments[:1]):
        raise ValueError(f"name a format: 'gato data {verb} FORMAT {rest}'; known are {', '.join(formats)}")
    print(f"usage: gato data {verb} {'|'.join(formats)} {rest}; 'gato data {verb} {next(iter(formats))} --help' lists options")
    return None, []


def validate(arguments: list[str]) -> int:
    about = "Re-read whole stores: hashes, bounds, every value. Exit code 1 if one is damaged, or its import or collection did not end."
    parser = parser_of("data validate", about)
    parser.add_argument("stores", nargs="+", type=str, help="names or folders")
    options = parse(parser, arguments)
    from gato.data.stores import find_store

    folders = {name: find_store(name) for name in options.stores}
    rows = [_validated(name, folder, quiet=options.json) for name, folder in folders.items()]
    if options.json:
        write_document(rows)
    return int(any(row["damage"] or row["unfinished"] for row in rows))


def _validated(name: str, folder: Path, quiet: bool) -> dict[str, Any]:
    """What there is in a store, or what is wrong with it; the latter goes to standard error too."""
    from gato.data.store import Store

    try:
        store = Store(folder)
        store.validate()
    except (ValueError, OSError) as error:
        print(f"gato: {one_line(error)}", file=sys.stderr)
        return {"store": name, "episodes": None, "timesteps": None, "damage": one_line(error), "unfinished": None}
    unfinished = store.manifest.shortfall
    if unfinished:
        print(f"gato: {name}: {unfinished}; what it holds is valid", file=sys.stderr)
    elif not quiet:
        print(f"{name}: {store.num_episodes} episodes, {store.num_timesteps} timesteps, all valid", flush=True)
    return {"store": name, "episodes": store.num_episodes, "timesteps": store.num_timesteps, "damage": None, "unfinished": unfinished}


def train_tokenizer(arguments: list[str]) -> None:
    parser = parser_of("tokenizer train", "Train SentencePiece on text files and on the text fields of stores.")
    parser.add_argument("sources", nargs="+", type=str, help="stores (by name or folder) and .txt files")
    parser.add_option("--size", int, 32000, Limits(1, 1_000_000), "number of pieces")
    parser.add_argument("--out", type=Path, help="model file (default: tokenizer.model in the stores folder)")
    options = parse(parser, arguments)
    from gato.data.formats.text import lines_of, texts_of
    from gato.data.stores import stores_folder
    from gato.tokenizers.text import TextTokenizer

    def texts(name: str) -> Iterator[str]:
        return lines_of(Path(name)) if name.endswith(".txt") else texts_of(open_store(name))

    tokenizer = TextTokenizer.train((text for name in options.sources for text in texts(name)), options.size)
    out = options.out or stores_folder() / "tokenizer.model"
    out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out)
    sources = [{"source": name, **tokenizer.report(texts(name))} for name in options.sources]
    print_rows(
        {"pieces": tokenizer.size, "file": out, "sources": sources},
        options.json,
        lambda: f"{table(sources)}\n{tokenizer.size} pieces: {out}",
    )
