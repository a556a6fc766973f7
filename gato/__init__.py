"""The open Gato: one transformer for text, pictures, discrete and continuous values.

Public names are loaded when first used (PEP 562), so ``import gato`` costs milliseconds and imports
neither torch nor gymnasium.

The rooms ``tokenizers``, ``data``, ``train`` and ``eval`` stand beside this folder in a checkout and
inside it in the wheel; either way they are ``gato.tokenizers`` and so on.
"""

from importlib import import_module
from pathlib import Path

_here = Path(__file__).resolve().parent
if not (_here / "tokenizers").is_dir():  # a checkout: the rooms are our neighbours, not our children
    __path__.append(str(_here.parent))

__version__ = "0.1.0"

_PUBLIC = {
    "load": "gato.agent",
    "Agent": "gato.agent",
    "evaluate": "gato.eval.control",
    "Episode": "gato.episode",
    "TaskSpec": "gato.spec",
    "FieldSpec": "gato.spec",
    "Modality": "gato.spec",
    "Gato": "gato.model",
    "GatoConfig": "gato.config",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'gato' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
