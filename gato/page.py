"""One self-contained HTML page: what `gato plot` and `gato data inspect` write.

The style is inlined, pictures are data URIs, charts are inline SVG, there is no script, and the page's content
policy forbids every load. Whoever fills it escapes all text that comes from data.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_page(out: Path, name: str, body: Iterable[str]) -> Path:
    """Writes the page called `name` with the HTML of `body`; replaces an older one only when it is complete."""
    style = resources.files("gato.configs").joinpath("report.css").read_text(encoding="utf-8")
    content = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(name)} &middot; opengato</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, out)
    return out


def section(title: str, *content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(content) + "\n</section>"


def absent(text: str) -> str:
    """A sentence in place of what is not there."""
    return f'<p class="absent">{escape(text)}</p>'
