"""What `make docs` adds to the pages of this folder (see mkdocs.yml): the README as the first page, an order, and API pages.

The pages themselves stay as they are read in the repository.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("tokenizers", "data", "train", "eval")
GUIDES = [
    "data",
    "environments",
    "suites",
    "mixture",
    "reference",
    "training",
    "finetuning",
    "learners",
    "evaluation",
    "serving",
    "captions",
    "transformers",
]
SHOWN = ["configs/reference-cpu.yaml", "configs/captions.yaml"]  # files outside of docs that pages link to
API = {
    "acting and loading": ["gato.agent", "gato.policy", "gato.learner", "gato.eval.control", "gato.eval.rollout", "gato.eval.takeover"],
    "episodes and tasks": ["gato.episode", "gato.spec", "gato.words", "gato.picture"],
    "environments": ["gato.envs", "gato.envs.own", "gato.envs.stream", "gato.envs.recording"],
    "model": ["gato.config", "gato.model", "gato.processor", "gato.batch"],
    "tokenizers": [f"gato.tokenizers.{name}" for name in ("vocabulary", "text", "continuous", "discrete", "image", "episode")],
    "data": [f"gato.data.{name}" for name in ("store", "stores", "selection", "mixture", "trajectories", "formats.dataset")],
    "training": [f"gato.train.{name}" for name in ("recipe", "pretrain", "loop", "checkpoint", "optim", "average", "finetune", "protocol")],
    "learners": ["gato.learners"] + [f"gato.learners.{name}" for name in ("decision_agent", "folder", "chunks", "nearest", "clone")],
    "serving": [f"gato.serve.{name}" for name in ("client", "demonstrated", "hub", "lerobot")],
}  # fmt: skip


def on_startup(**_: object) -> None:
    """The package as it is installed, with the rooms inside, so that their names are found without importing anything."""
    to = ROOT / "build" / "api" / "gato"
    shutil.rmtree(to, ignore_errors=True)
    only_code = shutil.ignore_patterns("__pycache__", "weights", "*.html")
    shutil.copytree(ROOT / "gato", to, ignore=only_code)
    for room in ROOMS:
        shutil.copytree(ROOT / room, to / room, ignore=only_code)
    for folder in [path for path in to.rglob("*") if path.is_dir()]:
        (folder / "__init__.py").touch()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Every page has its place; one that is new and no guide is found by its folder."""
    docs = Path(config.docs_dir)
    listed = {folder: sorted(f"{folder}/{path.name}" for path in (docs / folder).glob("*.md")) for folder in ("formats", "results")}
    if missing := {path.stem for path in docs.glob("*.md")} ^ set(GUIDES):
        raise SystemExit(f"docs/site.py lists the guides; it and the folder differ in {', '.join(sorted(missing))}")
    config.nav = [
        {"opengato": "index.md"},
        {"Guides": [f"{name}.md" for name in GUIDES]},
        {"Formats": listed["formats"]},
        {"Results": listed["results"]},
        {"API": [{title: _api_page(title)} for title in API]},
        {"Working on this code": "AGENTS.md"},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = readme.replace("](docs/notebooks)", "](notebooks/mixture.ipynb)").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    for name in ("AGENTS.md", *SHOWN):
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    for title, modules in API.items():
        text = f"# {title.capitalize()}\n\n" + "\n\n".join(f"::: {name}" for name in modules) + "\n"
        files.append(File.generated(config, _api_page(title), content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    return re.sub(r"\]\(\.\./\.\./configs/", "](../configs/", markdown)


def _api_page(title: str) -> str:
    return f"api/{title.replace(' ', '-')}.md"
