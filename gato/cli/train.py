"""`gato pretrain` and `gato finetune`."""

from __future__ import annotations

import gc
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from gato.setting import Limits, check_value

from .command import build_config, parse, parser_of, print_rows
from .output import write_document
from .recipes import recipe_path, recipes
from .threads import THREADS, THREADS_HELP, use_threads


def pretrain(arguments: list[str]) -> int | None:
    about = """Train RECIPE (a shipped name or a YAML file), or go on where it stopped.

    --nproc N: so many processes on this machine, a device each; torchrun and accelerate launch start them on several.
    --dry-run [--world-size N]: print memory, batch split and bytes sent of each of N ranks, and start nothing.
    --json: what it came to, or the plan, for programs."""
    ways, rest = _ways_to_start(arguments)
    if not ways.dry_run and ways.world_size is not None:
        raise ValueError("--world-size belongs to --dry-run; --nproc starts processes")
    parser = parser_of("pretrain", about)
    parser.usage = "gato pretrain RECIPE [--nproc N | --dry-run --world-size N] [--config FILE] [--SECTION.OPTION VALUE ...]"
    from gato.train.setup import recipe_class
    from gato.yaml_file import load_yaml

    learner = "gato"
    if not rest or rest[0].startswith("-"):
        if not {"-h", "--help", "--print_config"} & set(rest):
            raise ValueError(f"name a recipe first: 'gato pretrain RECIPE'; shipped are {', '.join(recipes())}")
    else:
        recipe = recipe_path(rest[0])
        content = load_yaml(recipe)
        learner = content.get("learner", "gato") if isinstance(content, dict) else "gato"
        rest[:1] = ["--config", str(recipe)]
    kind = recipe_class(learner)
    parser.add_argument("--config", action="config", help="a further YAML file; later files and options win")
    parser.add_config(kind)
    built = vars(build_config(parser, rest))
    config = kind(**{field.name: built[field.name] for field in fields(kind)})
    if not ways.dry_run:
        config.check()
    from gato.train.pretrain import dry_run, outcome, pretrain

    if ways.dry_run:
        from gato.train.plan import describe

        content = dry_run(config, ways.nproc if ways.world_size is None else ways.world_size)
        print_rows(content, ways.json, lambda: describe(content))
        return None
    try:
        if ways.nproc != 1 and "RANK" not in os.environ:
            from gato.train.launch import launch

            code = launch(["pretrain", *(word for word in arguments if word != "--json")], ways.nproc)
        else:
            pretrain(config)
            code = 0
        if ways.json and code == 0 and int(os.environ.get("RANK", "0")) == 0:
            write_document(outcome(config))
        return code
    finally:
        gc.freeze()  # else Python, as it ends, looks several times through all that torch brings: on a busy machine for 20 s


def _ways_to_start(arguments: list[str]) -> tuple[Any, list[str]]:
    """The options that are no part of a run's configuration, and the other words."""
    import argparse

    from .arguments import flags_completed

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--nproc", default=1)
    parser.add_argument("--dry-run", type=_truth, default=False)
    parser.add_argument("--world-size")
    parser.add_argument("--json", action="store_true")
    try:
        ways, rest = parser.parse_known_args(flags_completed(arguments, {"--dry-run"}))
    except argparse.ArgumentError as error:
        raise ValueError(" ".join(str(error).split())) from None
    ways.nproc = _ranks("nproc", ways.nproc)
    ways.world_size = None if ways.world_size is None else _ranks("world-size", ways.world_size)
    return ways, rest


def _ranks(name: str, word: Any) -> int:
    limits = Limits(1, 1_000_000)
    count = int(word) if str(word).isdecimal() else word
    check_value(name, count, int, limits)
    return count


def _truth(word: str) -> bool:
    return word.lower() == "true"


def finetune(arguments: list[str]) -> None:
    parser = parser_of("finetune", "Learn a new task from few demonstrations; a curve over their number, beside what needs no pretraining.")
    from gato.eval.settings import FewShotConfig

    lists = {"episodes": "numbers of demonstrations, such as 1,10,100", "modes": "such as full,scratch,retrieve"}
    parser.add_argument("checkpoint", type=Path)
    for name, text in lists.items():
        parser.add_argument(f"--{name}", type=str, default=None, help=text)
    parser.add_config(FewShotConfig, skip=set(lists))
    parser.add_option("--threads", int, None, THREADS, THREADS_HELP)
    parser.add_argument("--dry-run", type=bool, default=False, help="only print the token layout and the cost")
    parser.add_argument("--json", action="store_true")
    options = vars(parse(parser, arguments))
    checkpoint, as_json, dry = options.pop("checkpoint"), options.pop("json"), options.pop("dry_run")
    threads = options.pop("threads")
    words = {name: options.pop(name) for name in lists}
    if words["episodes"] is not None:
        options["episodes"] = tuple(_whole(word) for word in words["episodes"].split(","))
    if words["modes"] is not None:
        options["modes"] = tuple(words["modes"].split(","))
    config = FewShotConfig(**options)
    use_threads(threads, checkpoint)
    from gato.eval.fewshot import few_shot
    from gato.eval.fewshot_plan import plan
    from gato.eval.report.fewshot_table import few_shot_table

    if dry:
        text = plan(checkpoint, config)
        print_rows({"plan": text}, as_json, lambda: text)
        return
    results = few_shot(checkpoint, config)
    print_rows(results, as_json, lambda: f"{few_shot_table(results)}\n{results['out']}")


def _whole(word: str) -> int:
    if not word.strip().isdigit():
        raise ValueError(f"'{word}' is not a number of demonstrations; give whole numbers such as 1,10,100")
    return int(word)
