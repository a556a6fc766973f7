"""`gato correct`: somebody takes over from a policy while it acts, and a store keeps what happened."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from gato.setting import COUNT, SEED, TEMPERATURE, Limits

from .command import add_loading, parse, parser_of, print_rows
from .threads import add_threads, use_threads

KEYS = "space takes over and hands back, k keeps what just happened; digits are choices, a/d s/w q/e f/r push numbers down and up"


def correct(arguments: list[str]) -> None:
    about = "Take over from a policy while it acts; pieces of episodes become demonstrations, of behaviour 'human' or 'learner'."
    parser = parser_of("correct", f"{about} At the keyboard {KEYS}.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the store, by name or folder; one that is there is added to")
    parser.add_argument("--task", type=str, help="by default the only one of the checkpoint")
    parser.add_option(
        "--by", str, "keyboard", Limits(choices=("keyboard", "expert")), "who takes over: you, or the task's expert where they differ"
    )
    parser.add_option("--episodes", int, 5, COUNT)
    parser.add_option("--seed", int, 0, SEED, "of the episodes' starts, which are those of no collection and no evaluation")
    parser.add_option(
        "--rate", float, None, Limits(0, 10_000, above=True), "in Hz; by default 20 at the keyboard, and else as fast as it goes"
    )
    parser.add_option("--last", float, None, Limits(0, 1e6, above=True), "keep only so many seconds before each press of k, such as 30")
    parser.add_argument("--expert", type=str, help="your own in the place of the registry's: MODULE:NAME, as for gato data collect")
    parser.add_option("--apart", float, 0.25, Limits(0, 1), "expert: how far an action may be from its own, as a share of the range")
    parser.add_option("--patience", int, 3, COUNT, "expert: for so many timesteps in a row, before it takes over")
    parser.add_option("--hold", int, 10, COUNT, "expert: for so many timesteps it acts then")
    parser.add_option("--temperature", float, None, TEMPERATURE)
    add_loading(parser)
    add_threads(parser)
    options = parse(parser, arguments)
    if options.last is not None and options.by == "expert":
        raise ValueError("--last keeps what was before a key was pressed, and an expert presses none; leave it out, or use --by keyboard")
    if options.by == "keyboard" and not sys.stdin.isatty():
        raise ValueError("the keyboard needs a terminal, and the standard input is none; run it in one, or use --by expert")
    if options.by == "keyboard" and options.expert:
        raise ValueError(f"--expert {options.expert} acts with --by expert alone; add that, or leave it out")
    options.out = _store(options.out)
    use_threads(options.threads, options.checkpoint)
    rows, counts = _corrected(options)
    print_rows({"episodes": rows, **counts}, options.json, lambda: _lines(rows, counts, options.out))


def _store(out: Path) -> Path:
    """The folder of a store that is there, by its name too; else the folder as it is given."""
    from gato.data.shards.manifest import MANIFEST_NAME
    from gato.data.stores import named_store

    named = named_store(str(out))
    return named if not out.exists() and (named / MANIFEST_NAME).is_file() else out


def _corrected(options: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """A row per episode, and how many pieces and timesteps of each behaviour were kept."""
    from gato.agent import load
    from gato.data.collection.attempt import load_expert
    from gato.data.store import StoreWriter
    from gato.eval.corrector import ExpertCorrector, Keyboard, single_keys
    from gato.eval.realtime import Pace
    from gato.eval.takeover import correct as take_over

    agent = load(options.checkpoint, options.device, options.verify)
    playable = [name for name, task in agent.tasks.items() if task.is_control and task.env_id]
    if options.task is None and len(playable) != 1:
        raise ValueError(
            f"the checkpoint knows {len(playable)} tasks; name one with --task: {', '.join(playable) or 'none has an environment'}"
        )
    task = agent.task(options.task or playable[0])
    settings = {} if options.temperature is None else {"temperature": options.temperature}
    policy, is_person = agent.policy(task, seed=options.seed, **settings), options.by == "keyboard"
    rate = options.rate or (20.0 if is_person else None)
    corrector: Any = Keyboard(task) if is_person else None
    if corrector is None:
        corrector = ExpertCorrector(task, load_expert(task, options.expert), options.apart, options.patience, options.hold)
    counts = {"human_pieces": 0, "human_timesteps": 0, "learner_pieces": 0, "learner_timesteps": 0}
    with StoreWriter(options.out, [task], {"source": "gato.correct", "licence": task.licence}) as writer:

        def keep(piece: Any) -> None:
            writer.append(piece)
            counts[f"{piece.behaviour}_pieces"] += 1
            counts[f"{piece.behaviour}_timesteps"] += piece.num_timesteps

        with single_keys(sys.stdin) if is_person else nullcontext():
            found = take_over(
                policy, task, corrector, options.episodes, options.seed, sink=keep, pace=Pace(rate) if rate else None,
                keep_last=None if options.last is None else max(1, round(options.last * (rate or 1))),
                render_mode="human" if is_person and sys.stdin.isatty() else None,
            )  # fmt: skip
    names = ("seed", "total_reward", "num_timesteps", "num_human", "num_takeovers")
    return [{name: getattr(episode, name) for name in names} for episode in found], counts


def _lines(rows: list[dict[str, Any]], counts: dict[str, int], out: Path) -> str:
    from .command import table

    kept = (
        f"{counts['human_timesteps']} timesteps of a human in {counts['human_pieces']} pieces, {counts['learner_timesteps']} of the policy"
    )
    return f"{table(rows)}\n{out}: {kept}"
