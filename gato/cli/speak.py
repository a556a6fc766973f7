"""`gato caption`, `gato generate`, `gato chat`, `gato demo`: a checkpoint answers in words, and on a page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gato.setting import COUNT, SEED, TEMPERATURE, Limits

from .command import add_loading, parse, parser_of, print_rows
from .threads import THREADS, THREADS_HELP, checkpoint_options, use_threads


def caption(arguments: list[str]) -> int:
    parser = parser_of("caption", "Caption pictures, or answer a question about each. Exit code 1 if one of several cannot be read.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", nargs="+", type=str, help="files, folders, and patterns such as 'photos/*.png'")
    parser.add_argument("--question", type=str, help="answered for each picture (checkpoints trained on data of format vqa)")
    parser.add_option("--candidates", int, 1, Limits(1, 256), "so many different texts, the likeliest first: beams, or samples")
    parser.add_option("--max_new_tokens", int, 32, COUNT)
    parser.add_option("--temperature", float, 0.0, TEMPERATURE, "0: the likeliest piece each time")
    parser.add_option("--seed", int, 0, SEED)
    parser.add_option("--batch_size", int, 32, Limits(1, 10_000), "pictures at once")
    add_loading(parser)
    parser.add_option("--threads", int, None, THREADS, THREADS_HELP)
    parser.add_argument("--json", action="store_true")
    options = parse(parser, arguments)
    use_threads(options.threads, options.checkpoint)
    from gato.agent import load
    from gato.description import check_gato
    from gato.eval.words.captioning import caption_files, picture_files

    check_gato(options.checkpoint, "caption pictures")
    files = picture_files(options.images)
    rows = caption_files(load(options.checkpoint, options.device, options.verify), files, options)
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
    parser = parser_of("generate", "Continue a text.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=str)
    parser.add_option("--max_new_tokens", int, 64, COUNT)
    parser.add_option("--temperature", float, 0.0, TEMPERATURE, "0: the likeliest piece each time")
    parser.add_option("--seed", int, 0, SEED)
    add_loading(parser)
    parser.add_option("--threads", int, None, THREADS, THREADS_HELP)
    parser.add_argument("--json", action="store_true")
    options = parse(parser, arguments)
    use_threads(options.threads, options.checkpoint)
    from gato.agent import load
    from gato.description import check_gato

    check_gato(options.checkpoint, "continue text")
    agent = load(options.checkpoint, options.device, options.verify)
    text = agent.generate(options.text, options.max_new_tokens, options.temperature, options.seed)
    content = {"prompt": options.text, "continuation": text[len(options.text) :], "text": text}
    print_rows(content, options.json, lambda: text)


def chat(arguments: list[str]) -> None:
    parser = parser_of("chat", "Talk with a checkpoint, a line at a time. An empty line or the end of the input ends it.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--image", type=str, help="the lines are questions about this picture")
    parser.add_option("--max_new_tokens", int, 48, COUNT)
    parser.add_option("--temperature", float, 0.0, TEMPERATURE, "0: the likeliest piece each time")
    parser.add_option("--seed", int, 0, SEED)
    add_loading(parser)
    parser.add_option("--threads", int, None, THREADS, THREADS_HELP)
    options = parse(parser, arguments)
    use_threads(options.threads, options.checkpoint)
    from gato.agent import load
    from gato.description import check_gato
    from gato.serve.chat import chat

    check_gato(options.checkpoint, "talk")
    chat(load(options.checkpoint, options.device, options.verify), options.image, options.max_new_tokens, options.temperature, options.seed)


def demo(arguments: list[str]) -> None:
    parser = parser_of("demo", "Show a checkpoint as a web page: pictures, questions, chat, text, environments (extra 'page').")
    from gato.serve.demo_page import DemoConfig, serve

    serve(*checkpoint_options(parser, DemoConfig, arguments))
