"""The model card of a checkpoint, and the one way it leaves this computer: `publish`, when somebody calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gato.description import Description
from gato.disk import spanned
from gato.spec import TaskSpec

PUBLISHED = ("config.json", "gato.json", "model*.safetensors*", "*_config.json", "tokenizer.model")  # no training state

BODY = """
# {name}

A [Gato](https://arxiv.org/abs/2205.06175)-style model made with opengato: one transformer with one set of weights for {kinds}.

```python
import gato                     # pip install opengato
agent = gato.load("{name}")     # a folder; import gato.model to use transformers' Auto classes and pipelines
```

## What it was trained on

{tasks}

## What it reached

{scores}

## What it cannot do

It knows only what is listed above. Captions and texts are often wrong; scores hold for these environments and versions. It was
not tested for bias, for safety, or for any use outside research. The licences above are those of the data.
"""


def model_card(folder: Path) -> str:
    """The card of a checkpoint folder, with the scores of its `eval.json`. **Raises:** `ValueError` if it is no checkpoint."""
    from huggingface_hub import ModelCardData

    tasks = Description.load(folder).tasks.values()
    results = json.loads((folder / "eval.json").read_text()) if (folder / "eval.json").is_file() else {}
    kinds = [("control", any(t.is_control for t in tasks)), ("text", any(not t.is_control for t in tasks))]
    captions = any(not t.is_control and t.observations for t in tasks)
    data = ModelCardData(
        language="en", library_name="transformers", tags=["gato", "opengato"],
        pipeline_tag="image-text-to-text" if captions else "text-generation" if kinds[1][1] else "reinforcement-learning",
    )  # fmt: skip
    name = folder.resolve().parent.name if folder.name == "final" else folder.resolve().name
    rows = ["| task | licence of its data | random | expert |", "| --- | --- | --- | --- |", *map(_task_row, tasks)]
    body = BODY.format(
        name=name, kinds=" and ".join(kind for kind, has in kinds if has), tasks="\n".join(rows), scores="\n".join(score_lines(results))
    )
    return f"---\n{data.to_yaml()}\n---\n{body}"


def publish(folder: Path, repository: str, private: bool = True) -> str:
    """Uploads a checkpoint with its card to a hub repository; nothing else in this package uploads anything.

    **Returns:** the address of the repository.
    """
    from huggingface_hub import HfApi

    card = model_card(folder)
    hub = HfApi()
    address = hub.create_repo(repository, private=private, exist_ok=True)
    hub.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=list(PUBLISHED))
    hub.upload_file(repo_id=repository, path_or_fileobj=card.encode(), path_in_repo="README.md")
    return str(address)


def _task_row(task: TaskSpec) -> str:
    numbers = ["" if x is None else f"{x:.4g}" for x in (task.random_return, task.expert_return)]
    return f"| {task.name} | {task.licence or 'not stated'} | {numbers[0]} | {numbers[1]} |"


def score_lines(results: dict[str, Any]) -> list[str]:
    lines = [
        f"- {row['task']}: return {row['mean']:.4g} {spanned(row['low'], row['high'], '.4g')} over {row['episodes']} episodes"
        for row in results.get("tasks", [])
        if row.get("ablation") is None
    ]
    for row in results.get("families", []):
        if row["iqm"] is not None:
            above = f"{row['above']['50']} above half of the expert"
            lines.append(
                f"- {row['family']}, {row['tasks']} of {row['registered']} tasks: interquartile mean score {row['iqm']:.1f} "
                f"{spanned(row['low'], row['high'], '.1f')}, {above}"
            )
    for part in results.get("captions", []):
        if found := part.get("retrieval"):
            lines.append(
                f"- {part['split']}: the right title among ten for {found['accuracy']:.1%} [{found['low']:.1%}, {found['high']:.1%}] of "
                f"{part['pictures']} pictures; with another picture {part['shuffled']['accuracy']:.1%}, chance 10 %"
            )
    return lines or ["Not measured; `gato eval` does it."]
