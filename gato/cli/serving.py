"""`gato serve`: a checkpoint acts, captions and writes for programs elsewhere; `gato push`, `pull`, `export`: it goes there itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .command import parse, parser_of, print_rows
from .threads import checkpoint_options


def serve(arguments: list[str]) -> None:
    about = "Serve a checkpoint to robots and programs: openpi's websocket protocol, and HTTP (extra 'serve')."
    parser = parser_of("serve", about, json=False)
    from gato.serve.settings import ServeConfig

    checkpoint, config = checkpoint_options(parser, ServeConfig, arguments)
    with needs_extra():
        from gato.serve.server import serve
    serve(checkpoint, config)


@contextmanager
def needs_extra() -> Iterator[None]:
    """**Raises:** `ImportError` with the pip line for a module that the extra brings."""
    try:
        yield
    except ImportError as error:
        if str(error.name).partition(".")[0] == "gato":
            raise
        raise ImportError("serving needs uvicorn, starlette, websockets and msgpack: pip install 'opengato[serve]'") from None


def push(arguments: list[str]) -> None:
    about = "Upload a checkpoint with a card to a hub (HF_ENDPOINT, by default Hugging Face's). Needs 'hf auth login', or HF_TOKEN."
    parser = parser_of("push", about)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("repository", type=str, help="OWNER/NAME; made where it is not there yet")
    parser.add_option("--public", bool, False, "a repository that is made is private otherwise")
    parser.add_option("--dry-run", bool, False, help="print the files and the card, and ask no hub")
    options = parse(parser, arguments)
    from gato.serve import hub

    if options.dry_run:
        with hub.packed(options.checkpoint, options.repository) as folder:
            files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
            card = (folder / hub.CARD).read_text(encoding="utf-8")
        lines = [f"{size:>15,}  {name}" for name, size in files.items()]
        print_rows({"files": files, "card": card}, options.json, lambda: "\n".join([*lines, "", card]))
        return
    address = hub.push(options.checkpoint, options.repository, options.public)
    print_rows({"address": address}, options.json, lambda: address)


def pull(arguments: list[str]) -> None:
    about = "Fetch a checkpoint from a hub (HF_ENDPOINT, by default Hugging Face's) into a new folder: safetensors and JSON, nothing else."
    parser = parser_of("pull", about)
    parser.add_argument("repository", type=str, help="OWNER/NAME")
    parser.add_argument("folder", type=Path, nargs="?", help="by default NAME")
    parser.add_argument("--revision", type=str, help="a branch, a tag or a commit")
    options = parse(parser, arguments)
    from gato.serve import hub

    found = hub.pull(options.repository, options.folder or Path(options.repository.rpartition("/")[2]), options.revision)
    print_rows(found, options.json, lambda: _pulled(found))


def _pulled(found: dict[str, Any]) -> str:
    left = f"; left there: {', '.join(found['left'])}" if found["left"] else ""
    return f"{found['folder']}: {found['files']} files, {found['bytes']:,} bytes, commit {found['commit']}{left}"


def export(arguments: list[str]) -> None:
    parser = parser_of("export", "Write a checkpoint as another toolkit's programs take it, acting in one of its tasks.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--to", choices=["lerobot"], required=True, help="lerobot: for lerobot-eval, with plugins/lerobot_policy_gato")
    parser.add_argument("--task", type=str, help="needed where the checkpoint acts in several")
    options = parse(parser, arguments)
    from gato.serve.lerobot import export

    found = export(options.checkpoint, options.out, options.task)
    features = [
        f"{name:40} {feature['type']:8} {feature['shape']}"
        for name, feature in (found["input_features"] | found["output_features"]).items()
    ]
    print_rows(found, options.json, lambda: "\n".join([*features, f"{found['out']}: acts in {found['task']}"]))
