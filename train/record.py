"""What a run's folder records of it: its settings, which a later start must agree with, and the stores it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gato.disk import read_json, write_json

from . import checkpoint
from .ranks import say
from .recipe import TrainConfig

# What may differ when a run goes on: it changes how fast and where, not what is learned.
FREE = {
    "data.workers",
    *(f"train.{name}" for name in ("micro_batch_size", "save_every", "keep", "device", "threads", "deepspeed", "timeout", "max_skipped")),
    *(f"train.{name}" for name in ("report_to", "peak_flops", "compile", "recompute")),
    *(f"env.{name}" for name in ("eval_every", "eval_episodes")),
}
# Settings that older runs do not name, and what they meant.
EARLIER = {
    "learner": "gato", "model.layout": "gato", "model.pool_patches": 1, "model.num_bumps": 3, "model.mean_weight": 100.0,
    "data.sources.*.return_token": False, "data.sources.*.chunk": 1, "data.sources.*.scattered": False,
    "data.loss_on_prompts": True,
    "env.eval_every": 0, "env.eval_episodes": 20,
}  # fmt: skip


def record(folder: Path, resolved: dict[str, Any], train: TrainConfig) -> None:
    """Records the resolved configuration at a run's first start; later starts must agree with it, but for `FREE` and what they allow."""
    path = folder / "run.json"
    if path.is_file():
        changed = _changes(read_json(path), resolved)
        changed = {name: text for name, text in changed.items() if text != f"{name} was None, now {_earlier(name)}"}
        changed.pop("train.allow_changes", None)  # it is no setting of the run
        if "learner" in changed:  # then nothing else is comparable, and nothing can be allowed
            raise ValueError(f"'{folder}' holds a run of another learner ({changed['learner']}); choose another --train.name")
        if refused := {name: text for name, text in sorted(changed.items()) if name not in FREE and not _is_allowed(name, train)}:
            is_models = any(name.startswith("model.") for name in refused)  # which nothing allows
            remedy = " or undo it" if is_models else f", undo it, or allow it by --train.allow_changes {' '.join(refused)}"
            raise ValueError(
                f"'{folder}' holds a run with other settings ({'; '.join(refused.values())}); choose another --train.name{remedy}"
            )
        if not changed:
            return
        say(f"going on with {'; '.join(changed.values())}")
    write_json(path, resolved)


def reopen(final: Path, steps: int) -> None:
    """Makes the final checkpoint of a run that is to go on to more updates one like those before it."""
    if not (final / "manifest.json").is_file():
        return
    done = checkpoint.read_progress(final).step
    if done < steps:
        final.rename(final.with_name(f"step-{done}"))
        say(f"{final} was finished after {done} updates; going on to {steps}")


def _is_allowed(name: str, train: TrainConfig) -> bool:
    return not name.startswith("model.") and any(f"{name}.".startswith(f"{allowed}.") for allowed in train.allow_changes)


def _earlier(name: str) -> Any:
    """What a setting meant before runs named it; of a source's, whatever the source is called."""
    return EARLIER.get(f"data.sources.*.{name.rpartition('.')[2]}" if name.startswith("data.sources.") else name)


def _changes(old: Any, new: Any, name: str = "") -> dict[str, str]:
    """What differs between two nested configurations: "NAME was OLD, now NEW" by name."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f"{name}.{key}".lstrip("."), key) for key in sorted(old.keys() | new.keys())]
        return {n: text for path, key in pairs for n, text in _changes(old.get(key), new.get(key), path).items()}
    return {} if old == new else {name: f"{name} was {old}, now {new}"}


def recorded_steps(path: Path) -> int:
    settings = read_json(path).get("train")
    steps = settings.get("steps") if isinstance(settings, dict) else None
    if type(steps) is not int or steps < 1:
        raise ValueError(f"'{path}' is damaged: its train.steps is {steps!r}, expected a whole number above 0; restore it")
    return steps


def record_steps(path: Path, steps: int) -> None:
    """How many updates the seconds of a run came to."""
    resolved = read_json(path)
    write_json(path, resolved | {"train": resolved["train"] | {"steps": steps}})


def check_stores(path: Path, fingerprint: dict[str, str], train: TrainConfig) -> None:
    """**Raises:** `ValueError` if the stores are not those of the checkpoint, but for sources that `allow_changes` names."""
    old, new = read_json(path / "training.json").get("data"), fingerprint
    if not isinstance(old, dict):
        raise ValueError(f"'{path / 'training.json'}' is damaged: it does not say which stores were trained on; use another checkpoint")
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if refused := [name for name in changed if not _is_allowed(f"data.sources.{name}", train)]:
        raise ValueError(f"the stores of {', '.join(refused)} changed since '{path}' was written; restore them or start another run")
