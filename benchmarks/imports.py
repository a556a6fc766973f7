"""Who imports whom: draws the folders' imports, finds circles of files, and checks the rules of the house.

    python benchmarks/imports.py          # folders with their files, lines and what they import; exit code 1 for a breach
    python benchmarks/imports.py --dot    # the same as a graph for Graphviz

Read from the code with `ast`, imports inside functions counted too, those for type checkers alone not.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("tokenizers", "data", "train", "eval")
MOST_FILES, MOST_LINES = 26, 400
ROOF = ("agent", "description", "model", "policy", "processor", "static_passes", "weights")  # of gato/: above nouns and tokenizers
TOGETHER = ("gato.cli", "gato.serve")  # what people start, above everything else


class Import(NamedTuple):
    """One import, by the full names of the importing and the imported module."""

    importer: str
    imported: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.importer} imports {self.imported}"


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the house by its full name, with its file."""
    found = {}
    for room in ("gato", *ROOMS):
        for path in sorted((root / room).rglob("*.py")):
            parts = list(path.relative_to(root).with_suffix("").parts)
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join(parts if room == "gato" else ["gato", *parts])] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    """The modules of the house that a module imports, at its head or in a function."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            full = [f"{module}.{alias.name}" for alias in node.names]
            wanted = [one if one in known else module for one in full]
        for one in dict.fromkeys(wanted):
            if one in known and one != name:
                yield Import(name, one, path.relative_to(ROOT) if path.is_relative_to(ROOT) else path, node.lineno)


def _nodes(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def all_imports(known: dict[str, Path]) -> list[Import]:
    return [one for name, path in known.items() for one in imports(name, path, known)]


def circles(edges: list[Import]) -> list[list[str]]:
    """Groups of files that import each other, each in alphabetical order (Tarjan's algorithm)."""
    targets: dict[str, set[str]] = {}
    for one in edges:
        targets.setdefault(one.importer, set()).add(one.imported)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(targets.get(name, ())):
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(group := stack[at:]) > 1:
                found.append(sorted(group))
            del stack[at:]

    for name in sorted(targets):
        if name not in index:
            visit(name)
    return found


def place(name: str) -> str:
    """What the rules call a module: a room, a wing of data such as `data/formats`, `roof`, `learners`, `envs`, `noun`, `cli` or `serve`."""
    parts = name.split(".")[1:]
    if parts[:1] == ["data"]:
        return f"data/{parts[1]}" if len(parts) > 2 else "data"
    if parts and parts[0] in (*ROOMS, "cli", "serve", "learners", "envs"):
        return parts[0]
    return "roof" if parts and parts[0] in ROOF else "noun"


def breaches(edges: list[Import]) -> list[str]:
    """The imports that break a rule, each with file, line and the rule."""
    return [f"{one}; {rule}" for one in edges if (rule := _rule_broken(place(one.importer), place(one.imported)))]


def _rule_broken(importer: str, imported: str) -> str | None:
    is_room = imported.split("/")[0] in ROOMS
    if imported == "cli" and importer != "cli":
        return "nobody imports gato/cli"
    if imported == "serve" and importer not in ("cli", "serve"):
        return "nothing below gato/cli imports gato/serve"
    if importer in ("noun", "envs") and (is_room or imported in ("roof", "learners")):
        return "nouns and environments import no room"
    if importer == "tokenizers" and imported not in ("tokenizers", "noun"):
        return "tokenizers import nouns only"
    if importer in ("roof", "learners") and imported.split("/")[0] in ("data", "train", "eval"):
        return "agent, processor, policy and learners import nouns and tokenizers"
    if importer == "data" and imported.startswith("data/") and imported != "data/shards":
        return "the data hall imports only shards among its wings"
    wings = importer.startswith("data/") and imported.startswith("data/") and importer != imported
    if wings and imported != "data/shards" and importer != "data/reference":
        return "of the wings of data only reference imports another than shards"
    if importer == "train" and (imported.startswith("data/") or imported == "eval"):
        return "train imports the data hall alone"
    if importer.split("/")[0] == "data" and imported in ("train", "eval"):
        return "data imports neither train nor eval"
    return None


def sizes(known: dict[str, Path]) -> list[str]:
    """Folders of more than 26 files, and files of more than 400 lines."""
    folders: dict[Path, int] = {}
    found = []
    for path in known.values():
        folders[path.parent] = folders.get(path.parent, 0) + 1
        if (lines := _lines(path)) > MOST_LINES:
            found.append(f"{path.relative_to(ROOT)} has {lines} lines; at most {MOST_LINES}")
    found += [f"{f.relative_to(ROOT)} has {n} files; at most {MOST_FILES}" for f, n in folders.items() if n > MOST_FILES]
    return found


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _folder(path: Path) -> str:
    return path.parent.relative_to(ROOT).as_posix()


def main(arguments: list[str]) -> int:
    sys.setrecursionlimit(10_000)
    known = modules()
    edges = all_imports(known)
    rows: dict[str, list[Path]] = {}
    for path in known.values():
        rows.setdefault(_folder(path), []).append(path)
    between = {(_folder(known[e.importer]), _folder(known[e.imported])) for e in edges}
    if "--dot" in arguments:
        print("digraph {")
        print("\n".join(f'  "{a}" -> "{b}";' for a, b in sorted(between) if a != b))
        print("}")
    else:
        for folder, paths in sorted(rows.items()):
            others = ", ".join(sorted(b for a, b in between if a == folder != b))
            print(f"{folder:28} {len(paths):3} files {sum(map(_lines, paths)):6,} lines  imports {others or 'nothing'}")
    faults = [*("circle: " + " ~ ".join(group) for group in circles(edges)), *breaches(edges), *sizes(known)]
    print("\n".join(faults) or "no circle, no breach", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(lambda: main(sys.argv[1:])))
