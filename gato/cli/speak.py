"""`gato caption`, `gato generate`, `gato chat`, `gato demo`: a checkpoint answers in words, and on a page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gato.setting import COUNT, SEED, TEMPERATURE, Limits

from .command import add_loading, parse, parser_of, print_rows
from .threads import add_threads, checkpoint_options, use_threads


def caption(arguments: list[str]) -> int:
    about = "Caption pictures, or answer a question about each. Exit code 1 if one of several cannot be read."
    parser = _parser("caption", about, max_new_tokens=32)
    parser.add_argument("images", nargs="+", type=str, help="files, folders, and patterns such as 'photos/*.png'")
    parser.add_argument("--question", type=str, help="answered for each picture (checkpoints trained on data of format vqa)")
    parser.add_option("--candidates", int, 1, Limits(1, 256), "so many different texts, the likeliest first: beams, or samples")
    parser.add_option("--batch_size", int, 32, Limits(1, 10_000), "pictures at once")
    options = parse(parser, arguments)
    from gato.eval.words.captioning import caption_files, picture_files

    files = picture_files(options.images)  # what is not there is said before the checkpoint is opened
    rows = caption_files(_opened(options, "caption pictures"), files, options)
    for row in rows:
        if "error" in row:
            print(f"gato: {row['error']}", file=sys.stderr)
    print_rows(rows, options.json, lambda: "\n".join(line for row in rows for line in _caption_lines(row)))
    return int(any("error" in row for row in rows))


def _caption_lines(row: dict[str, Any]) -> Iterator[str]:
    if "error" in row:
        return
    yield f"{row['image']}: {row['caption']}"
    yield from (f"    {c['log_likelihood']:8.2f}  {c['text']}" for c in row.get("candidates", ()))


def generate(arguments: list[str]) -> None:
    parser = _parser("generate", "Continue a text.", max_new_tokens=64)
    parser.add_argument("text", type=str)
    options = parse(parser, arguments)
    text = _opened(options, "continue text").generate(options.text, options.max_new_tokens, options.temperature, options.seed)
    content = {"prompt": options.text, "continuation": text[len(options.text) :], "text": text}
    print_rows(content, options.json, lambda: text)


def chat(arguments: list[str]) -> None:
    about = "Talk with a checkpoint, a line at a time. An empty line or the end of the input ends it."
    parser = _parser("chat", about, max_new_tokens=48, json=False)
    parser.add_argument("--image", type=str, help="the lines are questions about this picture")
    options = parse(parser, arguments)
    agent = _opened(options, "talk")
    from gato.serve.chat import chat

    chat(agent, options.image, options.max_new_tokens, options.temperature, options.seed)


def demo(arguments: list[str]) -> None:
    about = "Show a checkpoint as a web page: pictures, questions, chat, text, environments (extra 'page')."
    parser = parser_of("demo", about, json=False)
    from gato.serve.demo_page import DemoConfig, serve

    serve(*checkpoint_options(parser, DemoConfig, arguments))


def _parser(verb: str, about: str, max_new_tokens: int, json: bool = True) -> Any:
    """The options of all that writes."""
    parser = parser_of(verb, about, json)
    parser.add_argument("checkpoint", type=Path)
    parser.add_option("--max_new_tokens", int, max_new_tokens, COUNT)
    parser.add_option("--temperature", float, 0.0, TEMPERATURE, "0: the likeliest piece each time")
    parser.add_option("--seed", int, 0, SEED)
    add_loading(parser)
    add_threads(parser)
    return parser


def _opened(options: Any, ability: str) -> Any:
    """The agent of a Gato's checkpoint. **Raises:** `ValueError` for another learner's, which has no words."""
    use_threads(options.threads, options.checkpoint)
    from gato.agent import load
    from gato.description import check_gato

    check_gato(options.checkpoint, ability)
    return load(options.checkpoint, options.device, options.verify)
