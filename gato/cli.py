"""The one command `gato`: a table of verbs, and for each the few lines that call a room.

Rooms are imported when their verb runs, so `gato --help` imports no torch. Bad input ends in one line
on standard error and exit code 2; `GATO_DEBUG=1` shows the traceback instead. `gato/arguments.py` parses.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any

USAGE = """gato: one transformer for text, pictures, discrete and continuous values

  gato data collect|import|export|validate ... make, convert, check stores of episodes
  gato data reference                          fetch and build the reference mixture
  gato data inspect|show MIX                   what a mixture holds; the very row training saw
  gato tokenizer train STORE|FILE...           train the text tokenizer
  gato tokenize KIND VALUES...                 show how values become ids
  gato pretrain RECIPE                         train (or resume) a model; --nproc N on several ranks
  gato finetune CKPT --data STORE --env ID     learn a new task from 1, 10, 100 demonstrations
  gato eval CKPT                               act, caption, and score with intervals
  gato caption CKPT IMAGE...                   caption pictures, or answer a --question about them
  gato chat CKPT                               talk with a model, perhaps about an --image
  gato generate CKPT TEXT                      continue text
  gato show SIZE|CKPT                          parameters by part, tasks of a checkpoint; --attention IMAGE
  gato plot RUN                                report of a run as one HTML page
  gato ls | gato cp RECIPE FILE                shipped recipes
  gato doctor                                  what is installed, missing, and why

'gato VERB --help' lists a verb's options; GATO_DEBUG=1 shows the traceback of an error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0, 1 for a failed check, 2 for bad input, 130 when interrupted."""
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv)) or 0
        sys.stdout.flush()
        return code
    except SystemExit as leaving:  # --help and --print_config leave by it
        return int(leaving.code or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains when it flushes
        return 0
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        if os.environ.get("GATO_DEBUG"):
            raise
        print(f"gato: {_one_line(error)}", file=sys.stderr)
        return 2


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ImportError):
        return f"{text}; 'gato doctor' says what is missing"
    # a RuntimeError may be our bug: say how to see where it comes from
    return f"{text} (GATO_DEBUG=1 shows where)" if isinstance(error, RuntimeError) else text


def _run(arguments: list[str]) -> int | None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        from gato import __version__

        print(__version__)
        return 0
    words: list[str] = []
    table = VERBS
    while arguments:
        word = arguments.pop(0)
        if words and word in ("-h", "--help"):
            print(f"gato {' '.join(words)} {'|'.join(table)}; 'gato {' '.join(words)} {next(iter(table))} --help' lists options")
            return 0
        words.append(word)
        if word not in table:
            near = get_close_matches(word, table, n=1)
            hint = f"did you mean '{' '.join([*words[:-1], near[0]])}'?" if near else f"known are {', '.join(table)}"
            raise ValueError(f"there is no verb '{' '.join(words)}'; {hint}")
        entry = table[word]
        if not isinstance(entry, dict):
            return entry(arguments)
        table = entry
    raise ValueError(f"'gato {' '.join(words)}' needs one of {', '.join(table)}")


def _parser(verb: str, description: str) -> Any:
    from .arguments import Parser

    return Parser(prog=f"gato {verb}", description=description)


def _parse(parser: Any, arguments: Sequence[str]) -> Any:
    """**Raises:** `ValueError` with one line for bad options. A plain namespace, since jsonargparse renames `values`."""
    return SimpleNamespace(**parser.parse(arguments).as_dict())


def _print(rows: Any, as_json: bool, text: Callable[[], str]) -> None:
    print(json.dumps(_finite(rows), indent=1, default=str) if as_json else text())


def _finite(value: Any) -> Any:
    """NaN and infinity are no JSON, so they become null."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned columns."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
        return "" if value is None else str(value)

    if not rows:
        return "(nothing)"
    lines = [list(rows[0]), *([cell(v) for v in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


# -- data ------------------------------------------------------------------------------------------


def _collect(arguments: list[str]) -> None:
    parser = _parser("data collect", "Let experts act and store their episodes, one store per task.")
    from gato.data.collect import CollectConfig, collect

    parser.add_argument("tasks", nargs="+", type=str, help="names such as gymnasium/cartpole")
    parser.add_config(CollectConfig, skip={"tasks"})
    parser.add_argument("--json", action="store_true")
    options = _parse(parser, arguments)
    as_json = vars(options).pop("json")
    rows = collect(CollectConfig(**vars(options)))
    keep = ("task", "episodes", "timesteps", "noisy", "rejected", "failed", "expert_return", "noisy_return")
    _print(rows, as_json, lambda: _table([{k: row.get(k) for k in keep} for row in rows]))


def _reference(arguments: list[str]) -> None:
    parser = _parser("data reference", "Fetch packages with apt-get, npm and pip as you configured them, and build the reference mixture.")
    from dataclasses import asdict

    from gato.data.reference import PARTS, ReferenceConfig, build

    parser.add_argument("--parts", nargs="+", type=str, choices=PARTS, default=list(PARTS), help="which parts (default: all)")
    parser.add_config(ReferenceConfig, skip={"parts"})
    parser.add_argument("--json", action="store_true")
    options = _parse(parser, arguments)
    as_json = vars(options).pop("json")
    built = build(ReferenceConfig(**vars(options)))
    lines = [f"left out: {count} {reason}" for reason, count in sorted(built.left_out.items())]
    lines += [f"missing: {line}" for line in built.missing] + [f"mixture: {built.mixture}"]
    _print(asdict(built), as_json, lambda: "\n".join([_table(built.stores), *lines]))


def _import(arguments: list[str]) -> None:
    from gato.data.formats import READERS, import_dataset, reader
    from gato.data.store import Store, stores_folder

    if not _names_a_format(arguments, "import", "PATH", READERS):
        return
    kind, *arguments = arguments
    parser = _parser(f"data import {kind}", "Bring a dataset into stores, one per split.")
    parser.add_argument("path", type=Path, help="the dataset's file or folder")
    parser.add_argument("--out", type=Path, help=f"folder of the stores (default: '{kind}' in the stores folder)")
    parser.add_argument("--splits", type=str, nargs="+", default=None, help="which splits, one store each (default: all)")
    parser.add_argument("--json", action="store_true")
    parser.add_config(reader(kind))
    options = vars(_parse(parser, arguments))
    path, out, splits, as_json = (options.pop(key) for key in ("path", "out", "splits", "json"))
    folders = import_dataset(reader(kind)(**options).open(path), out or stores_folder() / kind, splits)
    rows = [{"split": split, "episodes": Store(folder).num_episodes, "folder": folder} for split, folder in folders.items()]
    _print(rows, as_json, lambda: "\n".join(f"{row['split']}: {row['episodes']} episodes: {row['folder']}" for row in rows))


def _export(arguments: list[str]) -> None:
    from gato.data.formats import WRITERS, writer

    if not _names_a_format(arguments, "export", "OUT STORE...", WRITERS):
        return
    kind, *arguments = arguments
    parser = _parser(f"data export {kind}", "Write stores as a dataset of another format.")
    parser.add_argument("out", type=Path, help="the new dataset's folder")
    parser.add_argument("stores", nargs="+", type=str, help="names or folders")
    parser.add_argument("--json", action="store_true")
    parser.add_config(writer(kind))
    options = vars(_parse(parser, arguments))
    out, stores, as_json = (options.pop(key) for key in ("out", "stores", "json"))
    counts = writer(kind)(**options).write([_open_store(name) for name in stores], out)
    _print(counts, as_json, lambda: f"{out}: " + ", ".join(f"{value} {key}" for key, value in counts.items()))


def _names_a_format(arguments: list[str], verb: str, rest: str, formats: Any) -> bool:
    """False where help was asked for, and printed. **Raises:** `ValueError` if the first word is no format."""
    if arguments and arguments[0] in formats:
        return True
    if not {"-h", "--help"} & set(arguments[:1]):
        raise ValueError(f"name a format first: 'gato data {verb} FORMAT {rest}'; known are {', '.join(formats)}")
    print(f"usage: gato data {verb} {'|'.join(formats)} {rest}; 'gato data {verb} {next(iter(formats))} --help' lists options")
    return False


def _validate(arguments: list[str]) -> int:
    parser = _parser("data validate", "Re-read whole stores: hashes, bounds, every value. Exit code 1 if one is damaged.")
    parser.add_argument("stores", nargs="+", type=str, help="names or folders")
    parser.add_argument("--json", action="store_true")
    options = _parse(parser, arguments)
    folders = {name: _store_folder(name) for name in options.stores}
    rows = [_validated(name, folder, quiet=options.json) for name, folder in folders.items()]
    if options.json:
        print(json.dumps(rows, indent=1))
    return int(any(row["damage"] for row in rows))


def _validated(name: str, folder: Path, quiet: bool) -> dict[str, Any]:
    """What there is in a store, or what is wrong with it; the latter goes to standard error too."""
    from gato.data.store import Store

    try:
        store = Store(folder)
        store.validate()
    except (ValueError, OSError) as error:
        print(f"gato: {_one_line(error)}", file=sys.stderr)
        return {"store": name, "episodes": None, "timesteps": None, "damage": _one_line(error)}
    if not quiet:
        print(f"{name}: {store.num_episodes} episodes, {store.num_timesteps} timesteps, all valid", flush=True)
    return {"store": name, "episodes": store.num_episodes, "timesteps": store.num_timesteps, "damage": None}


def _mixture_of(name: str, options: Any) -> tuple[Any, int, int]:
    """The mixture of a recipe's name, a recipe, a run's folder or a mixture file; and its steps (0 if unknown) and batch size."""
    import yaml

    from gato.data.mixture import DataConfig, Mixture, open_tokenizer

    recorded = Path(name) / "run.json"
    path = recorded if recorded.is_file() else recipe_path(name)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    parser = _parser("data inspect", "")
    if isinstance(content, dict) and "sources" in content:
        parser.add_argument("--data", type=DataConfig)
        data, local_positions = _built(parser, ["--data", str(path)], path).data, 512
        settings: dict[str, Any] = {"context_length": 1024, "seed": 0, "steps": None, "batch_size": 512}
    else:
        from gato.train.pretrain import PretrainConfig

        parser.add_argument("--config", action="config")
        parser.add_config(PretrainConfig)
        recipe = _built(parser, ["--config", str(path)])
        data, local_positions = recipe.data, recipe.model.max_local_positions
        settings = {
            "context_length": recipe.model.context_length, "seed": recipe.train.seed, "steps": recipe.train.steps,
            "batch_size": recipe.train.batch_size,
        }  # fmt: skip
    settings |= {key: value for key, value in vars(options).items() if key in settings and value is not None}
    if min(settings["context_length"], settings["batch_size"]) < 1 or (settings["steps"] or 1) < 1:
        raise ValueError(f"context_length, batch_size and steps are at least 1, found {settings}")
    mixture = Mixture(data, open_tokenizer(data, local_positions), settings["context_length"], settings["seed"])
    return mixture, settings["steps"] or 0, settings["batch_size"]


def _built(parser: Any, arguments: Sequence[str], file: Path | None = None) -> Any:
    """The parsed dataclasses; an error names `file`, where the parser does not know that it is one."""
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in jsonargparse 4.49
    try:
        return instantiate(parser.parse(arguments))
    except ValueError as error:
        raise ValueError(f"'{file}': {error}" if file else str(error)) from None


def _mixture_parser(verb: str, description: str) -> Any:
    parser = _parser(verb, description)
    parser.add_argument("mixture", type=str, help="a recipe's name, a recipe or mixture file (YAML), or a run's folder")
    parser.add_argument("--context_length", type=int, help="tokens in a row (default: the recipe's, else 1024)")
    parser.add_argument("--seed", type=int, help="of the data order (default: the recipe's, else 0)")
    parser.add_argument("--html", type=Path, help="also write a self-contained page")
    parser.add_argument("--json", action="store_true")
    return parser


def _inspect(arguments: list[str]) -> None:
    parser = _mixture_parser("data inspect", "What a mixture holds, and what training on it sees; '~' marks estimates from samples.")
    parser.add_argument("--steps", type=int, help="updates that the epochs are for (default: the recipe's, else 1000)")
    parser.add_argument("--batch_size", type=int, help="rows of an update (default: the recipe's, else 512)")
    options = _parse(parser, arguments)
    from dataclasses import asdict

    from gato.data.inspection import inspect

    mixture, steps, batch_size = _mixture_of(options.mixture, options)
    found = inspect(mixture, steps or 1000, batch_size)
    if options.html:
        from gato.data.inspection_page import write_inspection

        write_inspection(found, mixture, options.mixture, options.html)
    head = (
        f"{found.steps:,} updates of {batch_size} rows of {found.context_length} tokens; ~ marks estimates from {len(mixture.sources)} x "
    )
    head += f"{found.sources[0].sampled_rows} drawn rows (loss, epochs, padding, cut) and from sampled timesteps (tokens, targets)"
    _print(asdict(found), options.json, lambda: "\n".join([head, _table(found.rows()), *found.findings]))


def _show_row(arguments: list[str]) -> None:
    parser = _mixture_parser("data show", "Draw the very row that training saw (or will see).")
    parser.add_argument("--step", type=int, default=0, help="the update, counted from 0")
    parser.add_argument("--row", type=int, default=0, help="of the update's global batch")
    options = _parse(parser, arguments)
    from gato.data.inspection_page import row_text, write_row

    if min(options.step, options.row) < 0:
        raise ValueError(f"update {options.step}, row {options.row}: both are counted from 0")
    mixture, _, _ = _mixture_of(options.mixture, options)
    row = mixture.row(options.step, options.row)
    if options.html:
        write_row(mixture, options.step, options.row, row, options.html)
    content = {"source": mixture.sources[row.source].name, "pieces": [vars(p) for p in row.pieces]}
    content["tokens"] = mixture.tokenizer.table(row.tokens) if options.json else None
    _print(content, options.json, lambda: row_text(mixture, options.step, options.row, row))


def _open_store(name: str) -> Any:
    from gato.data.store import Store

    return Store(_store_folder(name))


def _store_folder(name: str) -> Path:
    """A folder, or what a name stands for. **Raises:** `ValueError` if no store is there."""
    from gato.data.store import stores_folder

    path = Path(name) if (Path(name) / "manifest.json").exists() else stores_folder() / name
    if not (path / "manifest.json").exists():
        raise ValueError(f"there is no store at {path}: it has no manifest.json")
    return path


def _train_tokenizer(arguments: list[str]) -> None:
    parser = _parser("tokenizer train", "Train SentencePiece on text files and on the text fields of stores.")
    parser.add_argument("sources", nargs="+", type=str, help="stores (by name or folder) and .txt files")
    parser.add_argument("--size", type=int, default=32000, help="number of pieces")
    parser.add_argument("--out", type=Path, help="model file (default: tokenizer.model in the stores folder)")
    parser.add_argument("--json", action="store_true")
    options = _parse(parser, arguments)
    from gato.data.store import stores_folder
    from gato.data.text import lines_of, texts_of
    from gato.tokenizers.text import TextTokenizer

    def texts() -> Iterator[str]:
        for name in options.sources:
            yield from lines_of(Path(name)) if name.endswith(".txt") else texts_of(_open_store(name))

    tokenizer = TextTokenizer.train(texts(), options.size)
    out = options.out or stores_folder() / "tokenizer.model"
    out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out)
    characters = pieces = 0
    for text in texts():
        characters += len(text)
        pieces += len(tokenizer.encode_documents([text])[0]) - 1  # without the end; `encode` would remember the text
    row = {"pieces": tokenizer.size, "characters": characters, "characters_per_piece": characters / max(1, pieces), "file": out}
    text = f"{tokenizer.size} pieces from {characters:,} characters ({row['characters_per_piece']:.2f} characters a piece): {out}"
    _print(row, options.json, lambda: text)


# -- training and measuring --------------------------------------------------------------------------


def recipe_path(name: str) -> Path:
    """A YAML path, or the name of a shipped recipe. **Raises:** `ValueError` with the nearest name."""
    from importlib import resources

    if Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise ValueError(f"no recipe at '{name}'")
        return Path(name)
    path = resources.files("gato.configs").joinpath(f"{name}.yaml")
    if name not in recipes():
        near = get_close_matches(name, recipes(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"shipped are {', '.join(recipes())}"
        raise ValueError(f"there is no recipe '{name}'; {hint}")
    return Path(str(path))


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    from importlib import resources

    names = [Path(entry.name).stem for entry in resources.files("gato.configs").iterdir() if entry.name.endswith(".yaml")]
    return sorted(n for n in names if n != "tasks")


def _pretrain(arguments: list[str]) -> int | None:
    about = """Train RECIPE (a shipped name or a YAML file), or go on where it stopped.

    --nproc N: so many processes on this machine, a device each; torchrun and accelerate launch start them on several.
    --dry-run [--world-size N] [--json]: print memory, batch split and bytes sent of each of N ranks, and start nothing."""
    ways, rest = _ways_to_start(arguments)
    if not ways.dry_run and (ways.json or ways.world_size is not None):
        raise ValueError("--world-size and --json belong to --dry-run; --nproc starts processes")
    parser = _parser("pretrain", about)
    parser.usage = "gato pretrain RECIPE [--nproc N | --dry-run --world-size N] [--config FILE] [--SECTION.OPTION VALUE ...]"
    from gato.train.pretrain import PretrainConfig, dry_run, pretrain

    parser.add_argument("--config", action="config", help="a further YAML file; later files and options win")
    parser.add_config(PretrainConfig)
    if not rest or rest[0].startswith("-"):
        if not {"-h", "--help", "--print_config"} & set(rest):
            raise ValueError(f"name a recipe first: 'gato pretrain RECIPE'; shipped are {', '.join(recipes())}")
    else:
        rest[:1] = ["--config", str(recipe_path(rest[0]))]
    built = _built(parser, rest)
    config = PretrainConfig(model=built.model, data=built.data, optim=built.optim, train=built.train)
    if ways.dry_run:
        from gato.train.plan import describe

        content = dry_run(config, ways.nproc if ways.world_size is None else ways.world_size)
        _print(content, ways.json, lambda: describe(content))
        return None
    if ways.nproc != 1 and "RANK" not in os.environ:
        from gato.train.launch import launch

        return launch(["pretrain", *arguments], ways.nproc)
    pretrain(config)
    return None


def _ways_to_start(arguments: list[str]) -> tuple[Any, list[str]]:
    """The options that are no part of a run's configuration, and the other words."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--world-size", type=int)
    parser.add_argument("--json", action="store_true")
    try:
        return parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _finetune(arguments: list[str]) -> None:
    parser = _parser("finetune", "Learn a new task from few demonstrations; a curve over their number, beside what needs no pretraining.")
    from gato.eval.fewshot import FewShotConfig, few_shot, plan
    from gato.eval.fewshot_table import few_shot_table

    lists = {"episodes": "numbers of demonstrations, such as 1,10,100", "modes": "such as full,scratch,retrieve"}
    parser.add_argument("checkpoint", type=Path)
    for name, text in lists.items():
        parser.add_argument(f"--{name}", type=str, default=None, help=text)
    parser.add_config(FewShotConfig, skip=set(lists))
    parser.add_argument("--dry-run", type=bool, default=False, help="only print the token layout and the cost")
    parser.add_argument("--json", action="store_true")
    options = vars(_parse(parser, arguments))
    checkpoint, as_json, dry = options.pop("checkpoint"), options.pop("json"), options.pop("dry_run")
    words = {name: options.pop(name) for name in lists}
    if words["episodes"]:
        options["episodes"] = tuple(_whole(word) for word in words["episodes"].split(","))
    if words["modes"]:
        options["modes"] = tuple(words["modes"].split(","))
    config = FewShotConfig(**options)
    if dry:
        text = plan(checkpoint, config)
        _print({"plan": text}, as_json, lambda: text)
        return
    results = few_shot(checkpoint, config)
    _print(results, as_json, lambda: f"{few_shot_table(results)}\n{results['out']}")


def _whole(word: str) -> int:
    if not word.strip().isdigit():
        raise ValueError(f"'{word}' is not a number of demonstrations; give whole numbers such as 1,10,100")
    return int(word)


EVAL_LISTS = {
    "tasks": "control tasks (default: all of the checkpoint; 'none' for none)",
    "suite": "families such as babyai: their tasks that the checkpoint knows",
    "captions": "stores of held-out pictures, such as pictures/unseen_picture",
    "prompts": "texts to continue",
    "text": "stores of documents, for bits per byte",
}


def _eval(arguments: list[str]) -> None:
    parser = _parser("eval", "Act in environments, caption held-out pictures, continue text; scores with 95 % intervals.")
    from gato.eval.control import EvalConfig, evaluate_checkpoint
    from gato.eval.table import score_table

    parser.add_argument("checkpoint", type=Path)
    for name, text in EVAL_LISTS.items():
        parser.add_argument(f"--{name}", nargs="*", type=str, default=[], help=text)
    parser.add_config(EvalConfig, skip=set(EVAL_LISTS))
    parser.add_argument("--json", action="store_true")
    options = _parse(parser, arguments)
    as_json, checkpoint = vars(options).pop("json"), vars(options).pop("checkpoint")
    results = evaluate_checkpoint(checkpoint, EvalConfig(**vars(options)))
    _print(results, as_json, lambda: score_table(results))


def _caption(arguments: list[str]) -> int:
    parser = _parser("caption", "Caption pictures, or answer a question about each. Exit code 1 if one of several cannot be read.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", nargs="+", type=str, help="files, folders, and patterns such as 'photos/*.png'")
    parser.add_argument("--question", type=str, help="answered for each picture (checkpoints trained on data of format vqa)")
    parser.add_argument("--candidates", type=int, default=1, help="so many different texts, the likeliest first: beams, or samples")
    parser.add_argument("--max_new_tokens", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest piece each time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=32, help="pictures at once")
    parser.add_argument("--device", type=str)
    parser.add_argument("--json", action="store_true")
    options = _parse(parser, arguments)
    from gato.agent import load
    from gato.eval.captioning import caption_files, picture_files

    files = picture_files(options.images)
    rows = caption_files(load(options.checkpoint, options.device), files, options)
    for row in rows:
        if "error" in row:
            print(f"gato: {row['error']}", file=sys.stderr)
    _print(rows, options.json, lambda: "\n".join(line for row in rows for line in _caption_lines(row)))
    return int(any("error" in row for row in rows))


def _caption_lines(row: dict[str, Any]) -> Iterator[str]:
    if "error" in row:
        return
    yield f"{row['image']}: {row['caption']}"
    yield from (f"    {c['log_likelihood']:8.2f}  {c['text']}" for c in row.get("candidates", ()))


def _generate(arguments: list[str]) -> None:
    parser = _parser("generate", "Continue a text.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=str)
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = _parse(parser, arguments)
    from gato.agent import load

    print(load(options.checkpoint).generate(options.text, options.max_new_tokens, options.temperature, options.seed))


def _chat(arguments: list[str]) -> None:
    parser = _parser("chat", "Talk with a checkpoint, a line at a time. An empty line or the end of the input ends it.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--image", type=Path, help="the lines are questions about this picture")
    parser.add_argument("--max_new_tokens", type=int, default=48)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = _parse(parser, arguments)
    from gato.agent import load
    from gato.chat import chat

    chat(load(options.checkpoint), options.image, options.max_new_tokens, options.temperature, options.seed)


def _plot(arguments: list[str]) -> None:
    parser = _parser("plot", "A run's loss curves, scores, captions and film strips as one self-contained HTML page.")
    parser.add_argument("run", type=Path, help="folder of a run, such as runs/demo")
    parser.add_argument("--out", type=Path, help="default: report.html in the run's folder")
    options = _parse(parser, arguments)
    from gato.eval.report import write_report

    print(write_report(options.run, options.out or options.run / "report.html"))


# -- looking ---------------------------------------------------------------------------------------


def _show(arguments: list[str]) -> None:
    parser = _parser("show", "Parameters by part of a size (gato-79m ...) or a checkpoint, and a checkpoint's tasks.")
    parser.add_argument("name", type=str)
    parser.add_argument("--attention", type=Path, help="a picture: draw where the checkpoint looks while it captions it")
    parser.add_argument("--out", type=Path, default=Path("attention.html"), help="of --attention: .html or .png")
    parser.add_argument("--json", action="store_true")
    options = _parse(parser, arguments)
    if options.attention:
        from gato.agent import load
        from gato.eval.attention import caption_attention, write_attention

        seen = caption_attention(load(options.name), options.attention)
        print(f"{seen.caption}: {write_attention(seen, options.out)}")
        return
    import torch

    from gato.model import Gato, GatoConfig, preset

    is_checkpoint = (Path(options.name) / "config.json").is_file()
    if Path(options.name).exists() and not is_checkpoint:
        raise ValueError(f"'{options.name}' is not a checkpoint: it has no config.json; name a folder such as runs/NAME/final, or a size")
    config = GatoConfig.from_pretrained(options.name) if is_checkpoint else preset(options.name)
    with torch.device("meta"):
        counts = Gato(config).count_parameters()
    content: dict[str, Any] = {"name": options.name, "positions": config.positions, "parameters": counts}
    if is_checkpoint:
        from gato.agent import load_tokenizer

        content["tasks"] = list(load_tokenizer(Path(options.name))[1])
    lines = [f"{part:28}{count:>16,}" for part, count in counts.items()] + content.get("tasks", [])
    _print(content, options.json, lambda: "\n".join(lines))


def _ls(arguments: list[str]) -> None:
    parser = _parser("ls", "Names of the shipped recipes.")
    parser.add_argument("--json", action="store_true")
    options = _parse(parser, arguments)
    _print(recipes(), options.json, lambda: "\n".join(recipes()))


def _cp(arguments: list[str]) -> None:
    parser = _parser("cp", "Copy a shipped recipe to a file of your own.")
    parser.add_argument("recipe", type=str)
    parser.add_argument("file", type=Path, help="a new YAML file, or the folder to put it in")
    options = _parse(parser, arguments)
    recipe = recipe_path(options.recipe)
    file = options.file / recipe.name if options.file.is_dir() else options.file
    if file.exists():
        raise ValueError(f"'{file}' exists; choose another name")
    if file.suffix not in (".yaml", ".yml"):
        raise ValueError(f"'{file}' is not named *.yaml, so 'gato pretrain' would not take it for a recipe; name it {file.name}.yaml")
    file.write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
    print(file)


def _tokenize(arguments: list[str]) -> None:
    from gato.tokenizers.look import tokenize

    parser = _parser(
        "tokenize", "Show how values become ids: numbers in the 32k layout, text and episodes with the tokenizer of the stores folder."
    )
    parser.add_argument("kind", choices=["continuous", "discrete", "text", "episode"])
    parser.add_argument("--role", choices=["observation", "action"], default="observation")
    parser.add_argument("--low", type=float, default=-1.0, help="of a continuous action's range")
    parser.add_argument("--high", type=float, default=1.0, help="of a continuous action's range")
    parser.add_argument("--decode", action="store_true", help="from ids back to values")
    parser.add_argument("--checkpoint", type=Path, help="use this checkpoint's tokenizer and ids")
    parser.add_argument("--episode", type=int, default=0)
    parser.add_argument("--timestep", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("values", nargs="+", type=str, help="numbers, ids, a text, or a store; after '--'")
    options = _parse(parser, arguments)
    store = _open_store(options.values[0]) if options.kind == "episode" else None
    rows = tokenize(options, store)
    _print(rows, options.json, lambda: _table(rows))


def _doctor(arguments: list[str]) -> None:
    from argparse import ArgumentParser  # our own parser's library may be what is missing

    parser = ArgumentParser(prog="gato doctor", description="What is installed, what is missing, and what that means.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    from gato.doctor import findings

    rows = findings()
    _print(rows, options.json, lambda: _table(rows))


VERBS: dict[str, Any] = {
    "data": {
        "collect": _collect,
        "reference": _reference,
        "import": _import,
        "export": _export,
        "validate": _validate,
        "inspect": _inspect,
        "show": _show_row,
    },
    "tokenizer": {"train": _train_tokenizer},
    "tokenize": _tokenize,
    "pretrain": _pretrain,
    "finetune": _finetune,
    "eval": _eval,
    "caption": _caption,
    "generate": _generate,
    "chat": _chat,
    "show": _show,
    "plot": _plot,
    "ls": _ls,
    "cp": _cp,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
