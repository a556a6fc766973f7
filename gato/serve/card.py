"""The model card of a checkpoint, with which `gato push` uploads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gato.agent import load
from gato.description import Description, learner_of
from gato.disk import read_json, spanned
from gato.spec import TaskSpec
from gato.weights import TRAINED

GATO = "A [Gato](https://arxiv.org/abs/2205.06175)-style transformer with one set of weights,"
BODY = """
# {name}

{what} made with opengato (`pip install opengato`), for {kinds}.

```sh
gato pull {repository} {name}
gato eval {name}
```

```python
import gato

agent = gato.load("{name}"){auto}
```

{weights}## What it was trained on

{tasks}

## What it reached

{scores}

## What it cannot do

It knows only what is listed above. Captions and texts are often wrong; scores hold for these environments and versions. It was
not tested for bias, for safety, or for any use outside research. The licences above are those of the data.
"""


def model_card(folder: Path, repository: str = "OWNER/NAME") -> str:
    """The card of a checkpoint folder, with the scores of its `eval.json`. **Raises:** `ValueError` if it is no checkpoint."""
    from huggingface_hub import ModelCardData

    learner = learner_of(folder)
    found = Description.load(folder).tasks if learner == "gato" else load(folder, "cpu").tasks
    tasks = list(found.values())
    results = read_json(folder / "eval.json") if (folder / "eval.json").is_file() else {}
    kinds = [("control", any(t.is_control for t in tasks)), ("text", any(not t.is_control for t in tasks))]
    captions = any(not t.is_control and t.observations for t in tasks)
    data = ModelCardData(
        language="en", library_name="transformers" if learner == "gato" else "opengato", tags=["opengato", learner],
        pipeline_tag="image-text-to-text" if captions else "text-generation" if kinds[1][1] else "reinforcement-learning",
    )  # fmt: skip
    name = folder.resolve().parent.name if folder.name == "final" else folder.resolve().name
    body = BODY.format(
        name=name, repository=repository, what=GATO if learner == "gato" else f"A policy of the learner `{learner}`,",
        kinds=" and ".join(kind for kind, has in kinds if has),
        auto="  # after `import gato.model` transformers' Auto classes open it too" if learner == "gato" else "",
        weights="Its weights are averages over the updates (`optim.ema`).\n\n" if (folder / TRAINED).is_file() else "",
        tasks="\n".join(["| task | licence of its data | random | expert |", "| --- | --- | --- | --- |", *map(_task_row, tasks)]),
        scores="\n".join(score_lines(results)),
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n{body}"


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
