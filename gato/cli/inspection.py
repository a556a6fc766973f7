"""`gato data inspect` and `gato data show`: what a mixture or a single store holds, and what training sees of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gato.given import nearest
from gato.setting import COUNT, INDEX, SEED, Limits

from .command import build_config, open_store, parse, parser_of, print_rows, table
from .recipes import recipe_path, recipes

OF_A_MIXTURE = ("context_length", "seed", "steps", "batch_size", "step", "row", "recipe", "html")
OF_A_STORE = ("episode", "timestep", "count")
MAX_LETTERS = 60  # of a value in a table
MAX_NUMBERS = 8
MAX_TASKS = 60  # of a store that are listed


def inspect(arguments: list[str]) -> None:
    parser = _parser("data inspect", "What a mixture or a store holds; of a mixture also what training on it sees ('~': estimated).")
    parser.add_option("--steps", int, None, COUNT, "updates that the epochs are for (default: the recipe's, else 1000)")
    parser.add_option("--batch_size", int, None, Limits(1, 2**20), "rows of an update (default: the recipe's, else 512)")
    options = parse(parser, arguments)
    if store := _store(options):
        from gato.data.inspection.contents import contents

        holdings = contents(store)
        print_rows(holdings, options.json, lambda: _contents_text(holdings))
        return
    from dataclasses import asdict

    mixture, steps, batch_size = _mixture_of(options.name, options)
    from gato.data.inspection.scan import inspect

    found = inspect(mixture, steps or 1000, batch_size)
    if options.html:
        from gato.data.inspection.page import write_inspection

        write_inspection(found, mixture, options.name, options.html)
    head = (
        f"{found.steps:,} updates of {batch_size} rows of {found.context_length} tokens; ~ marks estimates from {len(mixture.sources)} x "
    )
    head += f"{found.sources[0].sampled_rows} drawn rows (loss, epochs, padding, cut) and from sampled timesteps (tokens, targets)"
    print_rows(asdict(found), options.json, lambda: "\n".join([head, table(found.rows()), *found.findings]))


def show(arguments: list[str]) -> None:
    parser = _parser("data show", "Draw the very row of a mixture that training saw (or will see), or an episode of a store.")
    parser.add_option("--step", int, None, INDEX, "of a mixture: the update, counted from 0 (default: 0)")
    parser.add_option("--row", int, None, INDEX, "of a mixture: of the update's global batch (default: 0)")
    parser.add_option("--episode", int, None, INDEX, "of a store: which, counted from 0 (default: 0)")
    parser.add_option("--timestep", int, None, INDEX, "of a store: the first that is shown (default: 0)")
    parser.add_option("--count", int, None, COUNT, "of a store: how many timesteps are shown (default: 8)")
    options = parse(parser, arguments)
    if store := _store(options):
        from gato.data.inspection.contents import episode_contents

        start, count = options.timestep or 0, 8 if options.count is None else options.count
        episode = episode_contents(store, options.episode or 0, start, count)
        print_rows(episode, options.json, lambda: _episode_text(episode))
        return
    step, row_number = options.step or 0, options.row or 0
    mixture, _, _ = _mixture_of(options.name, options)
    from gato.data.inspection.page import row_text, write_row

    row = mixture.row(step, row_number)
    if options.html:
        write_row(mixture, step, row_number, row, options.html)
    content = {"source": mixture.sources[row.source].name, "pieces": [vars(p) for p in row.pieces]}
    content["tokens"] = mixture.tokenizer.table(row.tokens) if options.json else None
    print_rows(content, options.json, lambda: row_text(mixture, step, row_number, row))


def _parser(verb: str, description: str) -> Any:
    parser = parser_of(verb, description)
    parser.add_argument("name", type=str, help="a store, by name or folder; or a recipe's name, a recipe or mixture file, a run's folder")
    parser.add_option("--context_length", int, None, Limits(1, 2**24), "tokens in a row (default: the recipe's, else 1024)")
    parser.add_option("--seed", int, None, SEED, "of the data order (default: the recipe's, else 0)")
    parser.add_argument("--recipe", type=str, help="that a mixture file is trained with: its batch, steps, context and seed")
    parser.add_argument("--html", type=Path, help="of a mixture: also write a self-contained page")
    return parser


def _store(options: Any) -> Any:
    """The store of this name, opened; `None` where a mixture is meant.

    **Raises:** `ValueError` for what is neither, and for an option of the other.
    """
    folder = _folder(options.name)
    wrong = [name for name in (OF_A_MIXTURE if folder else OF_A_STORE) if getattr(options, name, None) is not None]
    if wrong:
        what, other = ("a store", "mixtures") if folder else ("a mixture", "stores")
        raise ValueError(f"'{options.name}' is {what}, and --{wrong[0]} is an option for {other}; leave it out")
    return open_store(str(folder)) if folder else None


def _folder(name: str) -> Path | None:
    """The folder of a store of this name or path. A file, a run and a recipe's name come first, which are mixtures."""
    from gato.data.stores import store_of, stores_folder

    path = Path(name)
    if path.suffix in (".yaml", ".yml") or name in recipes() or (path / "run.json").is_file():
        return None
    if folder := store_of(name):
        return folder
    if path.is_file():
        raise ValueError(f"'{name}' is a file, but no recipe or mixture, which are named *.yaml; a store is a folder")
    known = [str(f.parent.relative_to(stores_folder())) for f in stores_folder().glob("*/*/manifest.json")] + recipes()
    what = "it has no manifest.json" if path.is_dir() else "there is no such folder"
    raise ValueError(f"'{name}' is no store ({what}) and no recipe (shipped are {', '.join(recipes())}){nearest(name, known)}")


def _mixture_of(name: str, options: Any) -> tuple[Any, int, int]:
    """The mixture of a recipe's name, a recipe, a run's folder or a mixture file; and its steps (0 if unknown) and batch size."""
    from gato.data.selection import check

    recorded = Path(name) / "run.json"
    path = recorded if recorded.is_file() else recipe_path(name)
    content = _content(path)
    if isinstance(content, dict) and "sources" in content:
        data = mixture_file(path, content)
        recipe = recipe_file(recipe_path(options.recipe)) if options.recipe else None
    elif options.recipe:
        raise ValueError(f"'{name}' is a recipe itself; --recipe is for a mixture file, which begins with 'sources:'")
    else:
        if isinstance(content, dict) and content.get("learner", "gato") != "gato":
            raise ValueError(f"'{name}' is of the learner {content['learner']}; rows are shown of Gato's mixtures, stores by their name")
        recipe = recipe_file(path)
        data = recipe.data
    check(data)
    settings: dict[str, Any] = {"context_length": 1024, "seed": 0, "steps": None, "batch_size": 512}
    if recipe:
        settings = {
            "context_length": recipe.model.context_length, "seed": recipe.train.seed, "steps": recipe.train.steps,
            "batch_size": recipe.train.batch_size,
        }  # fmt: skip
    settings |= {key: value for key, value in vars(options).items() if key in settings and value is not None}
    from gato.data.mixture import Mixture, open_tokenizer

    tokenizer = open_tokenizer(data, *recipe.model.layout_settings) if recipe else open_tokenizer(data)
    mixture = Mixture(data, tokenizer, settings["context_length"], settings["seed"])
    return mixture, settings["steps"] or 0, settings["batch_size"]


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        from gato.data.formats.lines import load_json

        return load_json(path)
    from gato.yaml_file import load_yaml

    return load_yaml(path)


def mixture_file(path: Path, content: Any) -> Any:
    """The `DataConfig` of a mixture file whose content was read. **Raises:** `ValueError` in one line with the file."""
    from gato.data.selection import DataConfig

    from .structure import check_structure

    try:
        check_structure(content, DataConfig, "", "data.")
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from None
    return build_config(_recipe_parser(), ["--data", str(path)], path).data


def recipe_file(path: Path) -> Any:
    """The `PretrainConfig` of a recipe's file. **Raises:** `ValueError` in one line with the file."""
    return build_config(_recipe_parser(), ["--config", str(path)])


@functools.cache
def _recipe_parser() -> Any:
    from gato.train.recipe import PretrainConfig

    parser = parser_of("data inspect", "", json=False)
    parser.add_argument("--config", action="config")
    parser.add_config(PretrainConfig)
    return parser


def _contents_text(found: dict[str, Any]) -> str:
    """The same as a person reads it."""
    tasks = [
        {
            "task": t["task"], "episodes": t["episodes"], "timesteps": t["timesteps"], "longest": t["longest"],
            "return": t["return"]["mean"], "lowest": t["return"]["lowest"], "highest": t["return"]["highest"],
            "random": t["random_return"], "expert": t["expert_return"],
            "success": None if t["success"] is None else f"{t['success']:.0%} of {t['success_known']}",
            "behaviours": ", ".join(f"{n} {name}" for name, n in t["behaviours"].items()),
        }
        for t in found["tasks"]
    ]  # fmt: skip
    fields = [{k: v for k, v in f.items() if k != "scanned"} for f in found["fields"]]
    provenance = found["provenance"]
    origin = [f"{k} {provenance[k]}" for k in ("format", "source", "split", "expert", "licence") if isinstance(provenance.get(k), str)]
    lines = [f"{found['store']}: {found['episodes']:,} episodes, {found['timesteps']:,} timesteps, {found['bytes']:,} bytes"]
    lines += ["; ".join(origin)] * bool(origin)
    lines += [f"unfinished: {found['unfinished']}"] * bool(found["unfinished"])
    lines += [f"left out: {what}" for what in found["left_out"]]
    lines += ["", table(tasks[:MAX_TASKS]), *_more_tasks(found["tasks"]), "", table(fields)]
    if fields and (scanned := found["fields"][0]["scanned"]) < found["timesteps"]:
        lines.append(f"found in {scanned:,} timesteps, evenly spread")
    return "\n".join(lines)


def _more_tasks(tasks: Sequence[dict[str, Any]]) -> list[str]:
    """What is said of the tasks of a set that are not listed."""
    if len(tasks) <= MAX_TASKS:
        return []
    counts = [task["episodes"] for task in tasks]
    return [f"{len(tasks) - MAX_TASKS} more tasks; of all {len(tasks)}, each has {min(counts)} to {max(counts)} episodes"]


def _episode_text(found: dict[str, Any]) -> str:
    """The same as a person reads it."""
    known = ("task", "timesteps", "return", "terminated", "truncated", "success", "seed", "behaviour", "parameters")
    lines = [f"{found['store']}, episode {found['episode']}"]
    lines += [f"{key}: {_short(found[key])}" for key in known if found[key] is not None and found[key] != {}]
    lines += ["", table([{k: v if k in ("timestep", "reward") else _short(v) for k, v in step.items()} for step in found["steps"]])]
    if (rest := found["timesteps"] - 1 - found["steps"][-1]["timestep"]) > 0:
        lines.append(f"{rest} more; --timestep says where to begin, --count how many to show")
    if found["final_observation"] is not None:
        lines.append("final observation: " + ", ".join(f"{k} {_short(v)}" for k, v in found["final_observation"].items()))
    return "\n".join(lines)


def _flat(value: list) -> Iterator[Any]:
    for item in value:
        yield from _flat(item) if isinstance(item, list) else (item,)


def _short(value: Any) -> str:
    """A value in a cell of a table: numbers with four digits, text in quotes where it is one, neither longer than a line."""
    if isinstance(value, list):
        flat = list(_flat(value))
        more = " ..." if len(flat) > MAX_NUMBERS else ""
        return f"[{' '.join(_short(v) for v in flat[:MAX_NUMBERS])}{more}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]}..."
