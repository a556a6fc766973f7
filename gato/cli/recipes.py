"""`gato ls` and `gato cp`: the recipes that come with the package."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from .command import parse, parser_of, print_rows

SUFFIXES = (".yaml", ".yml")


def recipe_path(name: str) -> Path:
    """A YAML path, or the name of a shipped recipe. **Raises:** `ValueError` with the nearest name."""
    from importlib import resources

    if Path(name).suffix in SUFFIXES:
        if not Path(name).is_file():
            raise ValueError(f"no recipe at '{name}'")
        return Path(name)
    path = resources.files("gato.configs").joinpath(f"{name}.yaml")
    if name not in recipes():
        near = get_close_matches(name, recipes(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"shipped are {', '.join(recipes())}"
        raise ValueError(f"there is no recipe '{name}'; {hint}")
    return Path(str(path))


def is_recipe(word: str) -> bool:
    """Whether a word looks like a recipe: a shipped name, or a YAML file, which need not exist."""
    return Path(word).suffix in SUFFIXES or word in recipes()


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    from importlib import resources

    names = [Path(entry.name).stem for entry in resources.files("gato.configs").iterdir() if entry.name.endswith(".yaml")]
    return sorted(n for n in names if n != "tasks")


def ls(arguments: list[str]) -> None:
    parser = parser_of("ls", "Names of the shipped recipes.")
    options = parse(parser, arguments)
    print_rows(recipes(), options.json, lambda: "\n".join(recipes()))


def cp(arguments: list[str]) -> None:
    parser = parser_of("cp", "Copy a shipped recipe to a file of your own.")
    parser.add_argument("recipe", type=str)
    parser.add_argument("file", type=Path, help="a new YAML file, or the folder to put it in")
    options = parse(parser, arguments)
    recipe = recipe_path(options.recipe)
    file = options.file / recipe.name if options.file.is_dir() else options.file
    if file.exists():
        raise ValueError(f"'{file}' exists; choose another name")
    if file.suffix not in SUFFIXES:
        raise ValueError(f"'{file}' is not named *.yaml, so 'gato pretrain' would not take it for a recipe; name it {file.name}.yaml")
    file.write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
    print_rows({"file": file}, options.json, lambda: str(file))
