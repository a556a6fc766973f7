"""`gato show`, `gato tokenize`, `gato doctor`: what is in a checkpoint, in a value, on a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .command import open_store, parse, parser_of, print_rows, table


def show(arguments: list[str]) -> None:
    parser = parser_of("show", "Parameters by part of a size (gato-79m ...) or a checkpoint, and a checkpoint's tasks.")
    parser.add_argument("name", type=str)
    parser.add_argument(
        "--attention", type=str, help="a picture, or a store of episodes: draw where the checkpoint looks while it captions or acts"
    )
    parser.add_argument("--episode", type=int, default=0, help="of the store that --attention names")
    parser.add_argument("--out", type=Path, default=Path("attention.html"), help="of --attention: .html or .png")
    parser.add_argument("--json", action="store_true")
    options = parse(parser, arguments)
    if options.attention:
        _attention(options)
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
    print_rows(content, options.json, lambda: "\n".join(lines))


def _attention(options: Any) -> None:
    from gato.agent import load
    from gato.data.captions import SUFFIXES
    from gato.eval.attention import caption_attention, write_attention

    if Path(options.attention).is_file() or Path(options.attention).suffix.lower() in SUFFIXES:
        seen = caption_attention(load(options.name), options.attention)
        page = write_attention(seen, options.out)
        print_rows({"caption": seen.caption, "page": page}, options.json, lambda: f"{seen.caption}: {page}")
        return
    from gato.eval.episode_attention import episode_attention, write_episode_attention

    store = open_store(options.attention)
    if not 0 <= options.episode < store.num_episodes:
        raise ValueError(f"store {options.attention} has episodes 0 to {store.num_episodes - 1}, there is no episode {options.episode}")
    found = episode_attention(load(options.name), store.episode(options.episode))
    page = write_episode_attention(found, f"episode {options.episode} of {options.attention}", options.out)
    print_rows({"store": options.attention, "episode": options.episode, "page": page}, options.json, lambda: str(page))


def tokenize(arguments: list[str]) -> None:
    from gato.tokenizers.look import tokenize

    parser = parser_of(
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
    options = parse(parser, arguments)
    store = open_store(options.values[0]) if options.kind == "episode" else None
    rows = tokenize(options, store)
    print_rows(rows, options.json, lambda: table(rows))


def doctor(arguments: list[str]) -> None:
    from argparse import ArgumentParser  # our own parser's library may be what is missing

    parser = ArgumentParser(prog="gato doctor", allow_abbrev=False, description="What is installed, what is missing, and what that means.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    from gato.doctor import findings

    rows = findings()
    print_rows(rows, options.json, lambda: table(rows))
