"""What we touch of other libraries' insides is listed in one place, is all there is, and is still there."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch

from gato import libraries
from gato.libraries import INSIDES

ROOT = Path(__file__).parent.parent
FILES = sorted(path for room in ("gato", "tokenizers", "data", "train", "eval") for path in (ROOT / room).rglob("*.py"))
LISTED = {name.rpartition(".")[2] for name in INSIDES}


def private(name: object) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"_[a-z]\w*", name))


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in FILES:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def own_names() -> set[str]:
    """What our code defines: functions, classes, variables, and attributes of `self`."""
    names = set()
    for node in (n for _, tree in trees() for n in ast.walk(tree)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in ("self", "cls"):
            names.add(node.attr)
    return names


def touched() -> Iterator[tuple[str, str]]:
    """(file and line, name) of every private name that is read or set on something, also by getattr and hasattr."""
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and private(node.attr):
                yield f"{file}:{node.lineno}", node.attr
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
                if isinstance(node.args[1], ast.Constant) and private(node.args[1].value):
                    yield f"{file}:{node.lineno}", node.args[1].value


def overridden() -> Iterator[tuple[str, str]]:
    """(class, name) of every private name of another library's class that a class of ours defines anew."""
    for module in ("gato.model", "gato.processor", "gato.layers.transformer", "gato.cli.arguments", "gato.policy"):
        for _, cls in inspect.getmembers(importlib.import_module(module), inspect.isclass):
            if cls.__module__ == module:
                foreign = [
                    base for base in cls.__mro__[1:] if base.__module__.split(".")[0] in ("transformers", "jsonargparse", "argparse")
                ]
                for name in vars(cls):
                    if private(name) and any(name in vars(base) for base in foreign):
                        yield cls.__name__, name


def test_every_private_name_of_others_is_listed() -> None:
    own = own_names()
    unlisted = [f"{place} {name}" for place, name in touched() if name not in own and name not in LISTED]
    unlisted += [f"{cls}.{name}" for cls, name in overridden() if name not in LISTED]
    assert not unlisted, f"list them in gato/libraries.py, with the reason, or do without: {unlisted}"


def test_every_listed_name_is_touched() -> None:
    found = {name for _, name in touched()} | {name for _, name in overridden()}
    assert found >= LISTED


@pytest.mark.parametrize("path", INSIDES)
def test_a_listed_name_is_still_there(path: str) -> None:
    """As an attribute, or in the source of the class or module that sets it."""
    owner, _, name = path.rpartition(".")
    pytest.importorskip(owner.split(".")[0])
    thing = _resolved(owner)
    assert hasattr(thing, name) or name in inspect.getsource(thing), f"{path} is gone; mend {INSIDES[path]}"


def _resolved(path: str) -> object:
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            thing = getattr(thing, part)
        return thing
    raise AssertionError(f"there is no {path}")


def test_the_tested_versions_are_those_of_this_python() -> None:
    tested = libraries.tested_versions()
    assert {"torch", "transformers", "numpy", "gymnasium", "deepspeed"} <= tested.keys()
    assert all(re.match(r"\d", version) for version in tested.values())


def test_the_lock_holds_every_package_that_the_extras_ask_for() -> None:
    from packaging.requirements import Requirement

    from gato.cli import doctor

    core, extras = doctor._requirements()
    asked = {Requirement(line).name for line in [*core, *(line for lines in extras.values() for line in lines)]} - {"opengato"}
    lock = (ROOT / "configs" / "requirements.lock").read_text(encoding="utf-8")
    assert not [name for name in asked if not re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE)]


def test_every_tested_version_lies_in_its_range() -> None:
    from packaging.requirements import Requirement

    from gato.cli import doctor

    core, extras = doctor._requirements()
    ranges = [Requirement(line) for line in [*core, *(line for lines in extras.values() for line in lines)]]
    tested = libraries.tested_versions()
    assert not [f"{r.name} {tested[r.name]}" for r in ranges if r.name in tested and tested[r.name] not in r.specifier]


def test_another_version_than_the_tested_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.version("numpy")
    monkeypatch.setattr(
        libraries, "tested_versions", lambda: {"numpy": "0.0.1", "no-such-package": "1.0", "torch": metadata.version("torch").split("+")[0]}
    )
    assert libraries.untested_versions() == {"numpy": (installed, "0.0.1")}


def test_transformers_warns_of_nothing_while_it_generates(agent, caplog, recwarn) -> None:
    """It would name a cache of the old name, a setting that is going, an argument that it does not know."""
    from transformers.utils import logging

    logging.enable_propagation()
    try:
        agent.model.generate(**agent.processor()(text=["go to", "what"]), num_beams=2, max_new_tokens=4)
        agent.model.generate(**agent.processor()(text=["go to"]), do_sample=True, max_new_tokens=4)
    finally:
        logging.disable_propagation()
    assert not [record.getMessage() for record in caplog.records] and not [str(w.message) for w in recwarn]


def test_a_cache_has_both_names_and_only_one_is_given_at_a_time(agent) -> None:
    ids = agent.processor()(text=["go to the red ball"])["input_ids"]
    whole = agent.model(input_ids=ids, use_cache=False).logits
    for name in ("cache", "past_key_values"):
        first = agent.model(input_ids=ids[:, :2], use_cache=True)
        then = agent.model(input_ids=ids[:, 2:], **{name: first.cache})
        torch.testing.assert_close(then.logits, whole[:, 2:], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="two names of one thing"):
        agent.model(input_ids=ids, cache=first.cache, past_key_values=first.cache)
