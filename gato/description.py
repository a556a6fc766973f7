"""A checkpoint's `gato.json` and `tokenizer.model`: what its ids mean and which tasks it knows.

format, vocabulary, loss_on_text_observations, tokenizer_sha256, tasks, memories, layout; pool_patches where patches share positions;
returns of the tasks that are told them, chunks of those whose actions are predicted several timesteps at once,
prompt_steps of those whose prompts are the last timesteps of a demonstration
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gato.layers.layout import LAYOUTS

from .disk import kind_of, read_json, shown
from .setting import LONGEST_CHUNK
from .spec import TaskSpec

if TYPE_CHECKING:
    from gato.tokenizers.episode import EpisodeTokenizer
    from gato.tokenizers.text import TextTokenizer
    from gato.tokenizers.vocabulary import Vocabulary

NAME = "gato.json"
BASELINE = "baseline.json"  # in its place where a policy is no transformer; see `gato/learners/folder.py`
FORMAT = 1
MAX_PIECES = 2**24
_STEPS = {"memories": ("memory", 2**31 - 1), "chunks": ("chunk", LONGEST_CHUNK), "prompt_steps": ("prompt_steps", 2**31 - 1)}
_KEYS = {"format", "vocabulary", "loss_on_text_observations", "tokenizer_sha256", "tasks"}


def learner_of(folder: Any) -> Any:
    """What a folder says of itself; "gato" also where it says nothing, since whoever opens it says what is missing."""
    if isinstance(folder, (str, os.PathLike)):
        for name, key in ((BASELINE, "kind"), (NAME, "learner")):
            if (Path(folder) / name).is_file():
                return read_json(Path(folder) / name).get(key, "gato")
    return "gato"


def check_gato(folder: Any, wanted: str) -> None:
    """**Raises:** `ValueError` for the folder of another learner, which acts and does nothing else; `wanted`: as in "cannot ..."."""
    if (learner := learner_of(folder)) != "gato":
        raise ValueError(f"'{folder}' holds a {learner} policy, which cannot {wanted}; name the folder of a Gato")


@dataclass(frozen=True)
class Description:
    """- `tokenizer`, `tasks`: by name; their memories stand beside them in the file."""

    tokenizer: EpisodeTokenizer
    tasks: Mapping[str, TaskSpec]

    def save(self, folder: Path) -> list[str]:
        """Writes both files. **Returns:** their names."""
        text = self.tokenizer.text
        if text is not None:
            text.save(folder / "tokenizer.model")
        content = {
            "format": FORMAT,
            "learner": "gato",
            "vocabulary": self.tokenizer.vocabulary.to_dict(),
            "loss_on_text_observations": self.tokenizer.loss_on_text_observations,
            "tokenizer_sha256": text.hash if text else None,
            "tasks": [task.to_dict() for task in self.tasks.values()],
            "memories": {name: task.memory for name, task in self.tasks.items() if task.memory},
            "layout": self.tokenizer.layout,
        }
        if self.tokenizer.pool_patches > 1:
            content["pool_patches"] = self.tokenizer.pool_patches
        if returns := {name: task.returns for name, task in self.tasks.items() if task.returns}:
            content["returns"] = returns
        for key, name in (("chunks", "chunk"), ("prompt_steps", "prompt_steps")):
            if found := {task.name: getattr(task, name) for task in self.tasks.values() if getattr(task, name)}:
                content[key] = found
        (folder / NAME).write_text(json.dumps(content, indent=1))
        return [NAME] if text is None else [NAME, "tokenizer.model"]

    @classmethod
    def load(cls, folder: Path) -> Description:
        """**Raises:** `ValueError` naming the file and what is wrong with it."""
        from gato.tokenizers.episode import EpisodeTokenizer

        check_folder(folder)
        path = folder / NAME
        content = read_json(path)
        if type(content.get("format")) is not int or content["format"] != FORMAT:
            raise ValueError(f"'{path}' has format {shown(content.get('format'))}, this version reads {FORMAT}")
        try:
            _check_keys(content)
            vocabulary, tasks = _vocabulary(content["vocabulary"]), _tasks(content["tasks"], content)
            tasks = _with_returns(tasks, content.get("returns"))
        except ValueError as error:
            raise ValueError(f"'{path}' is damaged: {error}; restore it") from None
        text = None if content["tokenizer_sha256"] is None else _read_text(folder / "tokenizer.model", content["tokenizer_sha256"])
        if text is not None and text.size != vocabulary.text_size:
            raise ValueError(f"'{path}' has a vocabulary of {vocabulary.text_size} pieces, its tokenizer has {text.size}; restore it")
        layout = content.get("layout", "gato")  # checkpoints from before there were two have no such key
        pool, on_texts = content.get("pool_patches", 1), content["loss_on_text_observations"]
        return cls(EpisodeTokenizer(text, vocabulary, on_texts, layout=layout, pool_patches=pool), tasks)


def check_folder(folder: Path) -> None:
    """**Raises:** `ValueError` if there is no checkpoint in the folder, naming those of the run that it may be."""
    if not folder.exists():
        raise ValueError(f"there is no checkpoint '{folder}': the folder does not exist")
    if not folder.is_dir():
        raise ValueError(f"'{folder}' is a file, expected the folder of a checkpoint such as runs/NAME/final")
    if (folder / NAME).is_file() or (folder / BASELINE).is_file():
        return
    inside = sorted((p.parent for p in folder.glob(f"*/{NAME}") if ".tmp-" not in p.parent.name), key=_age)
    if inside:
        raise ValueError(f"'{folder}' is no checkpoint but holds some; name one of {', '.join(str(p) for p in inside[-8:])}")
    raise ValueError(f"'{folder}' is not a checkpoint: it has no {NAME}; name a folder such as runs/NAME/final")


def _age(folder: Path) -> tuple[bool, int, str]:
    """Steps by their number, then what is not a step, such as `final`."""
    number = re.fullmatch(r"step-(\d{1,18})", folder.name)
    return number is None, int(number[1]) if number else 0, folder.name


def _check_keys(content: dict[str, Any]) -> None:
    if unknown := sorted(content.keys() - _KEYS - {"learner", *_STEPS, "layout", "returns", "pool_patches"}):
        raise ValueError(f"it has the unknown key {shown(unknown[0])}")
    if missing := sorted(_KEYS - content.keys()):
        raise ValueError(f"it lacks the key '{missing[0]}'")
    if not isinstance(on_observations := content["loss_on_text_observations"], bool):
        raise ValueError(f"loss_on_text_observations is {kind_of(on_observations)}, expected true or false")
    if (layout := content.get("layout", "gato")) not in LAYOUTS:
        raise ValueError(f"layout is {shown(layout)}, expected one of {', '.join(LAYOUTS)}")
    if type(pool := content.get("pool_patches", 1)) is not int or pool < 1:
        raise ValueError(f"pool_patches is {shown(pool)}, expected a whole number of at least 1")
    sha256 = content["tokenizer_sha256"]
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
        raise ValueError("tokenizer_sha256 is neither a SHA-256 of 64 hexadecimal digits nor null")


def _read_text(path: Path, sha256: str) -> TextTokenizer:
    from gato.tokenizers.text import TextTokenizer

    if not path.is_file():
        raise ValueError(f"'{path}' is missing, the tokenizer these weights were trained with; restore it from the run")
    text = TextTokenizer.load(path)
    if text.hash != sha256:
        raise ValueError(f"'{path}' is not the tokenizer these weights were trained with; restore it from the run")
    return text


def _vocabulary(values: Any) -> Vocabulary:
    from gato.tokenizers.vocabulary import Vocabulary

    expected = {"text_size", "discrete_offset"}
    if not isinstance(values, dict) or values.keys() != expected:
        raise ValueError(f"vocabulary is {shown(values)}, expected an object with {sorted(expected)}")
    for key, value in values.items():
        if type(value) is not int or not 0 <= value <= MAX_PIECES:
            raise ValueError(f"vocabulary has {key} {shown(value)}, expected a whole number from 0 to {MAX_PIECES}")
    return Vocabulary(**values)


def _tasks(values: Any, ways: Mapping[str, Any]) -> dict[str, TaskSpec]:
    """By name; `ways`: numbers of timesteps, by the keys of `_STEPS` and then by task, where a checkpoint knows some."""
    if not isinstance(values, list):
        raise ValueError(f"tasks is {kind_of(values)}, expected a list")
    tasks: dict[str, TaskSpec] = {}
    for value in values:
        task = TaskSpec.from_dict(value)
        if task.name in tasks:
            raise ValueError(f"the task {shown(task.name)} stands there twice")
        tasks[task.name] = task
    for key, (name, most) in _STEPS.items():
        found = ways.get(key) or {}
        if not isinstance(found, dict) or not all(type(v) is int and 0 < v <= most for v in found.values()):
            raise ValueError(f"{key} is not an object with numbers of timesteps above 0")
        if unknown := sorted(found.keys() - tasks.keys()):
            raise ValueError(f"{key} names {shown(unknown[0])}, which is none of its tasks")
        tasks |= {task: replace(tasks[task], **{name: steps}) for task, steps in found.items()}
    return tasks


def _with_returns(tasks: dict[str, TaskSpec], returns: Any) -> dict[str, TaskSpec]:
    """`returns`: lowest and highest of the tasks that are told them; `None` where none is."""
    if returns is None:
        return tasks
    if not isinstance(returns, dict) or returns.keys() - tasks.keys() or not all(map(_is_range, returns.values())):
        raise ValueError(f"returns is {shown(returns)}, expected an object with the lowest and highest return of some of its tasks")
    return {name: replace(task, returns=tuple(returns[name]) if name in returns else None) for name, task in tasks.items()}


def _is_range(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) and math.isfinite(v) for v in value)
    return is_pair and value[0] <= value[1]
