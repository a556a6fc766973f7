"""`gato pretrain` and `gato finetune`."""

from __future__ import annotations

import gc
import os
from argparse import SUPPRESS
from dataclasses import fields
from pathlib import Path

from gato.setting import Limits

from .command import build_config, parse, parser_of, place_of_name, print_rows
from .output import write_document
from .recipes import is_recipe, recipe_path, recipes
from .threads import add_threads, use_threads

RANKS = Limits(1, 1_000_000)


def pretrain(arguments: list[str]) -> int | None:
    about = """Train RECIPE (a shipped name or a YAML file), or go on where it stopped.

    torchrun and accelerate launch start processes on several machines."""
    parser = parser_of("pretrain", about, json=False)
    parser.usage = "gato pretrain RECIPE [--nproc N | --dry-run --world-size N] [--config FILE] [--SECTION.OPTION VALUE ...]"
    parser.add_option("--nproc", int, SUPPRESS, RANKS, "so many processes on this machine, a device each")
    parser.add_option("--dry-run", bool, SUPPRESS, help="print memory, batch split and bytes sent of each rank, and start nothing")
    parser.add_option("--world-size", int, SUPPRESS, RANKS, "of --dry-run: so many ranks")
    parser.add_argument("--json", action="store_true", default=SUPPRESS, help="what it came to, or the plan, for programs")
    from gato.train.setup import recipe_class
    from gato.yaml_file import load_yaml

    learner, rest = "gato", list(arguments)
    place = place_of_name(rest, is_recipe)
    if place is None:
        if not {"-h", "--help", "--print_config"} & set(rest):
            raise ValueError(f"name a recipe: 'gato pretrain RECIPE'; shipped are {', '.join(recipes())}")
    else:
        recipe = recipe_path(rest.pop(place))
        content = load_yaml(recipe)
        learner = content.get("learner", "gato") if isinstance(content, dict) else "gato"
        rest = ["--config", str(recipe), *rest]  # first, since what comes later wins
    kind = recipe_class(learner)
    parser.add_argument("--config", action="config", help="a further YAML file; later files and options win")
    parser.add_config(kind)
    built = vars(build_config(parser, rest))
    config = kind(**{field.name: built[field.name] for field in fields(kind)})
    nproc, as_json, dry = built.get("nproc", 1), built.get("json", False), built.get("dry_run", False)
    if "world_size" in built and not dry:
        raise ValueError("--world-size belongs to --dry-run; --nproc starts processes")
    if not dry:
        config.check()
    from gato.train.pretrain import dry_run, outcome, pretrain

    if dry:
        content, text = dry_run(config, built.get("world_size", nproc))
        print_rows(content, as_json, lambda: text)
        return None
    try:
        if nproc != 1 and "RANK" not in os.environ:
            from gato.envs import own
            from gato.train.launch import launch

            modules = [word for name in own.brought() for word in ("--import", name)]
            code = launch(["pretrain", *modules, *(word for word in arguments if word != "--json")], nproc)
        else:
            pretrain(config)
            code = 0
        if as_json and code == 0 and int(os.environ.get("RANK", "0")) == 0:
            write_document(outcome(config))
        return code
    finally:
        gc.freeze()  # else Python, as it ends, looks several times through all that torch brings: on a busy machine for 20 s


def finetune(arguments: list[str]) -> None:
    parser = parser_of("finetune", "Learn a new task from few demonstrations; a curve over their number, beside what needs no pretraining.")
    from gato.eval.settings import FewShotConfig

    parser.add_argument("checkpoint", type=Path, nargs="?", help="folder of a checkpoint; without one new weights are compared")
    parser.add_config(FewShotConfig)
    add_threads(parser)
    parser.add_option("--dry-run", bool, False, help="only print the token layout and the cost")
    options = vars(parse(parser, arguments))
    checkpoint, as_json, dry = options.pop("checkpoint"), options.pop("json"), options.pop("dry_run")
    threads = options.pop("threads")
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
