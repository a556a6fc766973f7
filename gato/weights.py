"""A checkpoint's weights on disk: what tensors the files hold, whether they are the model's, and the model made of them.

    model.safetensors                                       or, in shards,
    model.safetensors.index.json, model-00001-of-00002.safetensors, ...

Nothing is taken at its word: names, shapes and dtypes are compared with what `config.json` asks for before a tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .disk import read_json, shown

if TYPE_CHECKING:
    from .model import Gato, GatoConfig

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TRAINED = "trained.safetensors"  # the last weights, where training left averages to act with (`optim.ema`)
_NEEDED = {"vocab_size", "num_layers", "num_heads", "width", "head_width", "feed_forward", "positions", "context_length"}
_DTYPES = {"float32": "F32", "float64": "F64", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class Entry:
    """What a file's header says of a tensor; `dtype` as safetensors writes it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def load_model(folder: Path) -> Gato:
    """The model of a checkpoint folder, on the CPU. **Raises:** `ValueError` if a file is damaged, or a tensor missing, surplus or odd."""
    config = read_config(folder)
    model, entries = empty_model(config), read_entries(folder)
    check_entries(folder, entries, model)
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        with _opened(path) as file:
            # copies: a tensor over the file itself would change, or end the process, when somebody writes to the file
            tensors |= {name: file.get_tensor(name).clone() for name in file.keys()}
    model.load_state_dict(tensors, strict=True, assign=True)
    return model


def read_config(folder: Path) -> GatoConfig:
    """**Raises:** `ValueError` naming `config.json` if it is damaged, no Gato's, or holds a size that no model has."""
    from .model import GatoConfig

    path = folder / "config.json"
    content = read_json(path)
    if content.get("model_type") != GatoConfig.model_type:
        raise ValueError(f"'{path}' is of model_type {shown(content.get('model_type'))}, expected '{GatoConfig.model_type}'")
    if missing := sorted(_NEEDED - content.keys()):
        raise ValueError(f"'{path}' is damaged: it lacks '{missing[0]}'; restore it")
    try:
        return GatoConfig.from_dict(content)
    except ValueError as error:
        raise ValueError(f"'{path}': {error}; restore it") from None
    except Exception as error:  # transformers' own keys are read by transformers, which expects them to be right
        raise ValueError(f"'{path}' is damaged: transformers cannot read its own keys in it; restore it") from error


def empty_model(config: GatoConfig) -> Gato:
    """The model without its weights: only names, shapes and code."""
    from .model import Gato

    with torch.device("meta"):
        return Gato(config)


def filled_model(config: GatoConfig, weights: Mapping[str, Tensor]) -> Gato:
    """A model that takes these tensors over as they are; of other names than its own it takes none."""
    model = empty_model(config)
    own = model.state_dict().keys()
    model.load_state_dict({name: weights[name] for name in own}, strict=True, assign=True)
    return model


def weight_files(folder: Path) -> list[Path]:
    """**Raises:** `ValueError` if there are no weights, two sets of them, or the index of their shards is damaged."""
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file() and index.is_file():
        raise ValueError(f"'{folder}' holds two sets of weights, {SINGLE} and {INDEX}; remove the one that is not meant")
    if index.is_file():
        return [folder / name for name in sorted(set(_shards(index).values()))]
    if not single.is_file():
        raise ValueError(f"'{folder}' has no weights: neither {SINGLE} nor {INDEX} is there; restore them")
    return [single]


def read_entries(folder: Path) -> dict[str, Entry]:
    """The tensors of all files by name; only the headers are read.

    **Raises:** `ValueError` if a file is missing, cut or damaged, or the shards are not those of their index.
    """
    entries: dict[str, Entry] = {}
    for path in weight_files(folder):
        with _opened(path) as file:
            for name in file.keys():
                if name in entries:
                    raise ValueError(f"'{path}' holds '{name}', and so does {entries[name].file.name}; restore the shards")
                part = file.get_slice(name)
                entries[name] = Entry(path, tuple(part.get_shape()), str(part.get_dtype()))
    index = folder / INDEX
    if index.is_file() and {n: e.file.name for n, e in entries.items()} != (said := _shards(index)):
        wrong = next(n for n in [*said, *entries] if n not in said or n not in entries or said[n] != entries[n].file.name)
        raise ValueError(f"'{index}' does not fit its shards: '{wrong}' lies elsewhere or nowhere; restore the shards and the index")
    return entries


def check_entries(folder: Path, entries: dict[str, Entry], model: Gato) -> None:
    """**Raises:** `ValueError` naming a tensor that the model lacks or has in vain, or whose shape or dtype is another."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if missing := [name for name in expected if name not in entries]:
        raise ValueError(f"the weights of '{folder}' lack {_named(missing)}, which config.json asks for; {_REMEDY}")
    if surplus := [name for name in entries if name not in expected]:
        raise ValueError(f"the weights of '{folder}' hold {_named(surplus)}, for which config.json has no place; {_REMEDY}")
    for name, shape in expected.items():
        if entries[name].shape != shape:
            found = list(entries[name].shape)
            raise ValueError(f"'{entries[name].file}' holds '{name}' of shape {found}, config.json asks for {list(shape)}; {_REMEDY}")
    said = str(model.config.dtype).removeprefix("torch.")
    dtype = _DTYPES.get(said, next(iter(entries.values())).dtype)
    for name, entry in entries.items():
        if entry.dtype != dtype or dtype not in _DTYPES.values():
            raise ValueError(f"'{entry.file}' holds '{name}' as {entry.dtype}, expected {dtype} as config.json says; {_REMEDY}")


def count_not_finite(folder: Path) -> dict[str, int]:
    """How many numbers of each tensor are NaN or infinite, where there are any. Reads all weights, a tensor at a time."""
    counts = {}
    for path in weight_files(folder):
        with _opened(path) as file:
            for name in file.keys():
                if number := int((~torch.isfinite(file.get_tensor(name))).sum()):
                    counts[name] = number
    return counts


_REMEDY = "these are not the weights that were saved: restore the folder, or use another checkpoint"


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} other tensors"


def _shards(index: Path) -> dict[str, str]:
    """`{tensor: file name}`."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(n, str) and Path(n).suffix == ".safetensors" for n in names.values()):
        raise ValueError(f"'{index}' is damaged: it has no weight_map from tensors to files; restore it")
    for name in set(names.values()):
        if Path(name).name != name or "\0" in name:
            raise ValueError(f"'{index}' names '{name}'; a shard is a plain file name inside the checkpoint's folder")
        if not (index.parent / name).is_file():
            raise ValueError(f"the shard '{index.parent / name}' is missing; restore it")
    return names


class _opened:
    """safetensors' reader of a file. **Raises:** `ValueError` if the file, or a tensor within, cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        try:
            self._file = safe_open(self.path, framework="pt")
            return self._file.__enter__()
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"'{self.path}' is cut or damaged ({error}); {_REMEDY}") from None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.__exit__(kind, error, trace)
        if isinstance(error, SafetensorError):
            raise ValueError(f"'{self.path}' is damaged ({error}); {_REMEDY}") from None
