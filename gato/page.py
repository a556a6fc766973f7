"""One self-contained HTML page: what `gato plot`, `gato show` and `gato data inspect` write.

Templates lie in `configs/pages` and escape all that they are given, but for `Markup`: charts as inline SVG, made by our own code.
The style is inlined, pictures are data URIs, there is no script, and the page's content policy forbids every load.
"""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from .disk import write_text


@functools.cache
def _templates() -> Environment:
    def read(name: str) -> str:
        return resources.files("gato.configs").joinpath(f"pages/{name}").read_text(encoding="utf-8")

    return Environment(loader=FunctionLoader(read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def write_page(out: Path, template: str, name: str, **values: Any) -> Path:
    """Writes the page called `name` from a template's values; replaces an older one only when it is complete."""
    style = Markup(resources.files("gato.configs").joinpath("report.css").read_text(encoding="utf-8"))
    content = _templates().get_template(template).render(name=name, style=style, **values)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, content)
    return out
