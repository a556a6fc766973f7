"""`gato show`, `gato tokenize`, `gato doctor`: what is in a checkpoint, in a value, on a machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gato.setting import INDEX, SEED, Limits

from .command import add_loading, open_store, parse, parser_of, print_rows, table

if TYPE_CHECKING:
    from gato.spec import FieldSpec, TaskSpec


def show(arguments: list[str]) -> None:
    parser = parser_of("show", "Parameters by part of a size (gato-79m ...) or a checkpoint, and a checkpoint's tasks.")
    parser.add_argument("name", type=str)
    parser.add_argument(
        "--attention", type=str, help="a picture, or a store of episodes: draw where the checkpoint looks while it captions or acts"
    )
    parser.add_option("--episode", int, 0, INDEX, "of the store that --attention names")
    parser.add_argument("--trace", type=str, help="a task: draw an episode with what a critic expects and which blocks of a RIM take part")
    parser.add_option("--seed", int, 0, SEED, "of the episode of --trace: the first that 'gato eval --seed' plays")
    parser.add_argument("--out", type=Path, help="of --attention and --trace: .html or .png; attention.html and trace.html by default")
    add_loading(parser)
    options = parse(parser, arguments)
    if options.attention:
        _attention(options)
        return
    if options.trace:
        _trace(options)
        return
    from gato.config import preset
    from gato.description import Description, check_folder, learner_of
    from gato.weights import empty_model, read_config

    is_checkpoint = Path(options.name).exists()
    if is_checkpoint:
        check_folder(Path(options.name))
        if learner_of(options.name) != "gato":
            _show_learner(options)
            return
    config = read_config(Path(options.name)) if is_checkpoint else preset(options.name)
    counts = empty_model(config).count_parameters()
    content: dict[str, Any] = {"name": options.name, "positions": config.positions, "parameters": counts}
    if is_checkpoint:
        tasks = Description.load(Path(options.name)).tasks
        content["tasks"] = list(tasks)
    lines = [f"{part:28}{count:>16,}" for part, count in counts.items()] + (_fields_of(tasks) if is_checkpoint else [])
    print_rows(content, options.json, lambda: "\n".join(lines))


def _show_learner(options: Any) -> None:
    """Parameters by part and tasks of a checkpoint that is not Gato's."""
    from gato.agent import load
    from gato.description import learner_of

    learner = learner_of(options.name)
    agent = load(options.name, options.device, options.verify)
    counts: dict[str, int] = {}
    for name, parameter in agent.model.named_parameters():
        part = name.split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    counts["total"] = sum(counts.values())
    content = {"name": options.name, "learner": learner, "parameters": counts, "tasks": list(agent.tasks)}
    lines = [learner, *(f"{part:28}{count:>16,}" for part, count in counts.items()), *_fields_of(agent.tasks)]
    print_rows(content, options.json, lambda: "\n".join(lines))


def _fields_of(tasks: Mapping[str, TaskSpec]) -> list[str]:
    """A line for each task: what is seen and what is done in it, by the names that a client sends."""
    return [f"{name}: {'; '.join(f'{f.role} {_kind_of(f)}' for f in task.fields)}" for name, task in tasks.items()]


def _kind_of(field: FieldSpec) -> str:
    from gato.spec import Modality

    shape = " x ".join(map(str, field.shape))
    if field.modality is Modality.TEXT:
        return f"'{field.name}' text"
    if field.modality is Modality.DISCRETE:
        low, high = (int(bound.flat[0]) for bound in field.bounds)
        return f"'{field.name}' {f'{shape} of ' if shape else ''}{low} to {high}"
    return f"'{field.name}' {shape or 'one'} {'pixels' if field.modality is Modality.IMAGE else 'numbers'}"


def _trace(options: Any) -> None:
    from gato.agent import load
    from gato.description import check_folder
    from gato.eval.insight.attention import check_drawing
    from gato.eval.insight.trace import trace, write_trace

    check_folder(Path(options.name))
    out = options.out or Path("trace.html")
    check_drawing(out)
    found = trace(load(options.name, options.device, options.verify), options.trace, options.seed)
    page = write_trace(found, f"{options.trace}, seed {options.seed}", out)
    if found.undrawn:
        print(f"gato: without frames: {found.undrawn}", file=sys.stderr)
    content = {
        "task": options.trace, "seed": options.seed, "timesteps": len(found.values), "return": float(found.rewards.sum()),
        "success": found.success, "active": found.active.mean(axis=0).tolist(), "page": page,
    }  # fmt: skip
    shares = ", ".join(f"{share:.0%}" for share in content["active"])
    took_part = f"; blocks took part in {shares} of them" if shares else ""
    line = f"{content['timesteps']} timesteps, return {content['return']:.4g}{took_part}: {page}"
    print_rows(content, options.json, lambda: line)


def _attention(options: Any) -> None:
    out = options.out or Path("attention.html")
    from gato.agent import load
    from gato.description import check_gato
    from gato.eval.insight.attention import caption_attention, check_drawing, write_attention
    from gato.picture import SUFFIXES, check_local

    check_drawing(out)
    check_local(options.attention)
    check_gato(options.name, "be asked where it looks")
    if Path(options.attention).is_file() or Path(options.attention).suffix.lower() in SUFFIXES:
        seen = caption_attention(load(options.name, options.device, options.verify), options.attention)
        page = write_attention(seen, out)
        print_rows({"caption": seen.caption, "page": page}, options.json, lambda: f"{seen.caption}: {page}")
        return
    from gato.eval.insight.episode_attention import episode_attention, write_episode_attention

    store = open_store(options.attention)
    if not 0 <= options.episode < store.num_episodes:
        raise ValueError(f"store {options.attention} has episodes 0 to {store.num_episodes - 1}, there is no episode {options.episode}")
    found = episode_attention(load(options.name, options.device, options.verify), store.episode(options.episode))
    page = write_episode_attention(found, f"episode {options.episode} of {options.attention}", out)
    print_rows({"store": options.attention, "episode": options.episode, "page": page}, options.json, lambda: str(page))


def validate(arguments: list[str]) -> int:
    about = "Read every file of checkpoints and compare it with what was saved: names, shapes, numbers, hashes."
    parser = parser_of("validate", f"{about} Exit code 1 if something is damaged.")
    parser.add_argument("checkpoints", nargs="+", type=Path, help="folders such as runs/NAME/final")
    options = parse(parser, arguments)
    from .validation import validate_checkpoint

    rows = [row for folder in options.checkpoints for row in validate_checkpoint(folder)]
    print_rows(rows, options.json, lambda: "\n".join(_validation_lines(rows)))
    return int(any(row["sound"] is False for row in rows))


def _validation_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        state = {True: "sound", False: "DAMAGED", None: "not known"}[row["sound"]]
        yield f"{row['checkpoint']}  {row['check']:32}  {state}{': ' if row['finding'] else ''}{row['finding'] or ''}"


def tokenize(arguments: list[str]) -> None:
    from .tokens import tokenize

    parser = parser_of(
        "tokenize", "Show how values become ids: numbers in the 32k layout, text and episodes with the tokenizer of the stores folder."
    )
    parser.add_argument("kind", choices=["continuous", "discrete", "text", "episode"])
    parser.add_argument("--role", choices=["observation", "action"], default="observation")
    parser.add_option("--low", float, -1.0, Limits(), "of a continuous action's range")
    parser.add_option("--high", float, 1.0, Limits(), "of a continuous action's range")
    parser.add_argument("--decode", action="store_true", help="from ids back to values")
    parser.add_argument("--checkpoint", type=Path, help="use this checkpoint's tokenizer and ids")
    parser.add_option("--episode", int, 0, INDEX)
    parser.add_option("--timestep", int, 0, INDEX)
    parser.add_argument("values", nargs="+", type=str, help="numbers, ids, a text, or a store; after '--'")
    options = parse(parser, arguments)
    store = open_store(options.values[0]) if options.kind == "episode" else None
    rows = tokenize(options, store)
    print_rows(rows, options.json, lambda: table(rows))


def doctor(arguments: list[str]) -> None:
    from argparse import ArgumentParser  # our own parser's library may be what is missing

    parser = ArgumentParser(prog="gato doctor", allow_abbrev=False, description="What is installed, what is missing, and what that means.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    from .doctor import findings

    rows = findings()
    print_rows(rows, options.json, lambda: table(rows))
