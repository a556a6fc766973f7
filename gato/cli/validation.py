"""`gato validate CKPT`: everything in a checkpoint folder read and compared with what it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gato import digests
from gato.agent import load
from gato.description import BASELINE, Description, check_folder, learner_of
from gato.disk import read_json
from gato.weights import check_entries, count_not_finite, empty_model, read_config, read_entries

Row = dict[str, Any]


def validate_checkpoint(folder: Path) -> list[Row]:
    """A row per check: `checkpoint`, `check`, `sound` (`None` where it cannot be said) and `finding`.

    Reads every file that the manifest names. **Raises:** `ValueError` if the folder is no checkpoint.
    """
    check_folder(folder)
    if (folder / BASELINE).is_file():
        manifest = _manifest_rows(folder) if (folder / digests.NAME).is_file() else []
        return [*_baseline_rows(folder), *manifest]
    return [*_file_rows(folder), *_manifest_rows(folder)]


def _file_rows(folder: Path) -> Iterator[Row]:
    """All that loading and transformers read."""
    if fault(lambda: learner_of(folder)) is None and learner_of(folder) != "gato":
        opened = fault(lambda: load(folder, "cpu", verify=False))
        yield _row(folder, "gato.json and weights", opened)
        if opened is None:
            yield _row(folder, "weights: finite numbers", fault(lambda: _check_finite(folder)))
        return
    yield _row(folder, "gato.json, tokenizer.model", fault(lambda: Description.load(folder)))
    yield _row(folder, "config.json", fault(lambda: read_config(folder)))
    yield _row(folder, "vocabulary", fault(lambda: _check_vocabulary(folder)))
    complete = fault(lambda: check_entries(folder, read_entries(folder), empty_model(read_config(folder))))
    yield _row(folder, "weights: names, shapes, dtypes", complete)
    if complete is None:
        yield _row(folder, "weights: finite numbers", fault(lambda: _check_finite(folder)))
    for path in sorted(folder.glob("*.json")):
        if path.name not in ("gato.json", "config.json", digests.NAME, "model.safetensors.index.json"):
            yield _row(folder, path.name, fault(partial(read_json, path)))


def _baseline_rows(folder: Path) -> Iterator[Row]:
    """All that `gato.load` reads of a policy that is no transformer, and whether it acts."""
    from gato.learners.folder import check_acting, check_finite, load_baseline

    opened = fault(lambda: load_baseline(folder))
    yield _row(folder, f"{BASELINE}, weights, SHA-256", opened)
    if opened is None:
        policy = load_baseline(folder).acting
        yield _row(folder, "weights: finite numbers", fault(lambda: check_finite(policy)))
        yield _row(folder, "an action for an empty observation", fault(lambda: check_acting(policy)))


def fault(check: Callable[[], Any]) -> str | None:
    """What a check says that fails; `None` if it does not."""
    try:
        check()
    except ValueError as error:
        return " ".join(str(error).split())
    return None


def _check_vocabulary(folder: Path) -> None:
    config, vocabulary = read_config(folder), Description.load(folder).tokenizer.vocabulary
    if config.vocab_size != vocabulary.size:
        raise ValueError(f"config.json has {config.vocab_size} ids, gato.json {vocabulary.size}; they belong to different checkpoints")


def _check_finite(folder: Path) -> None:
    if counts := count_not_finite(folder):
        parts = ", ".join(f"{count} in {name}" for name, count in list(counts.items())[:3])
        more = f", and in {len(counts) - 3} more tensors" if len(counts) > 3 else ""
        raise ValueError(f"{sum(counts.values())} numbers are NaN or infinite: {parts}{more}; use a checkpoint from before")


def _manifest_rows(folder: Path) -> list[Row]:
    if not (folder / digests.NAME).is_file():
        return [_row(folder, "hashes", f"there is no {digests.NAME}, so nobody can say whether the files are those that were saved", None)]
    try:
        entries = digests.entries_of(folder)
    except ValueError as error:
        return [_row(folder, digests.NAME, str(error))]
    return [_row(folder, f"SHA-256 of {name}", digests.difference(folder, name, entry)) for name, entry in entries.items()]


def _row(folder: Path, check: str, found: str | None, sound: bool | None = False) -> Row:
    return {"checkpoint": str(folder), "check": check, "sound": True if found is None else sound, "finding": found}
