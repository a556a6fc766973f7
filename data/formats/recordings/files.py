"""Which files recordings are, and which reader opens each: HDF5, NPZ, CSV or TSV, by their suffix in any case."""

from __future__ import annotations

import glob
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from gato.data.formats.files import files_below
from gato.data.formats.left_out import LeftOut
from gato.picture import SUFFIXES as PICTURES

from .arrays import DAMAGE, Arrays, first_line, natural_key
from .csv_file import CsvArrays
from .hdf5 import Hdf5Arrays
from .npz import NpzArrays

SUFFIXES = {
    ".hdf5": "HDF5", ".h5": "HDF5", ".hdf": "HDF5", ".npz": "NPZ", ".csv": "CSV", ".tsv": "CSV", ".csv.gz": "CSV", ".tsv.gz": "CSV",
}  # fmt: skip

_REMEDIES = {
    ".npy": "it is one array; put all of an episode into one file with np.savez",
    ".pkl": "it would have to be unpickled, which runs programs; save its arrays with np.savez",
    ".pt": "it would have to be unpickled, which runs programs; save its arrays with np.savez",
    ".mat": "save its arrays with np.savez(path, **scipy.io.loadmat(path))",
    ".xlsx": "save it as CSV",
    ".xls": "save it as CSV",
    ".json": "write a CSV file of it, or an adapter",
    ".parquet": "import it as jat or lerobot, or write a CSV file of it",
    ".gz": "unpack it",
    ".zip": "unpack it",
    ".zarr": "save its arrays with np.savez",
}
_REMEDIES[".pickle"] = _REMEDIES[".pth"] = _REMEDIES[".pkl"]


def suffix_of(path: Path) -> str | None:
    """Which of `SUFFIXES` a name ends in."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def recording_files(path: Path, left_out: LeftOut) -> list[Path]:
    """A file, all files of a folder, or those of a pattern; the numbers in their names in order, files of other kinds counted.

    **Raises:** `ValueError` if there is none, with the remedy for another kind of file.
    """
    if path.is_file():
        _check(path)
        return [path]
    if path.is_dir():
        found = [f for f in files_below(path) if not _is_beside(f)]
        files_below(path, {suffix.removesuffix(".gz") for suffix in SUFFIXES})  # refuses links that lead nowhere
    elif any(sign in str(path) for sign in "*?["):
        found = [f for f in map(Path, glob.glob(str(path), recursive=True)) if f.is_file()]
    else:
        raise ValueError(f"{path} does not exist; expected a file or folder of recordings, or a pattern such as 'runs/*.npz'")
    files = sorted((f for f in found if suffix_of(f)), key=lambda f: natural_key(str(f)))
    others = [f for f in found if not suffix_of(f)]
    if not files:
        there = f"; there is {others[0].name}: {_remedy(others[0])}" if others else ""
        raise ValueError(f"there are no recordings at {path}; expected files named *{', *'.join(SUFFIXES)}{there}")
    if any(SUFFIXES[suffix_of(f) or ""] == "CSV" for f in files):
        pictures, others = ([f for f in others if f.name.lower().endswith(PICTURES) == is_picture] for is_picture in (True, False))
        if pictures:
            left_out.count("picture files, but for those that a table names", pictures[0], len(pictures))
    if others:
        left_out.count("files that are no HDF5, NPZ, CSV or TSV", others[0], len(others))
    return files


def open_arrays(path: Path, types: dict[str, str] | None = None, wanted: Sequence[str] = ()) -> Arrays:
    """Opens a file by its suffix.

    **Arguments:** `types`: NumPy name or `"str"` by column of a CSV file, where its first rows would mislead;
    `wanted`: the keys that will be read, where it matters that they are known.

    **Raises:** `ValueError` for another suffix or a damaged file; `ImportError` with the pip line for HDF5 without h5py.
    """
    _check(path)
    kind = SUFFIXES[suffix_of(path) or ""]
    try:
        if kind == "HDF5":
            return Hdf5Arrays(path)
        return NpzArrays(path) if kind == "NPZ" else CsvArrays(path, types or {}, wanted)
    except (*DAMAGE, pa.ArrowException) as error:
        words = {zipfile.BadZipFile: "it is no ZIP archive", UnicodeDecodeError: "the names in it are damaged"}
        what = words.get(type(error)) or first_line(error)
        raise ValueError(f"{path} is no readable {kind} file: {what}; copy it again, or leave it out") from None


def _check(path: Path) -> None:
    if suffix_of(path) is None:
        raise ValueError(f"{path} is of no known format, expected {', '.join(SUFFIXES)}: {_remedy(path)}")


def _remedy(path: Path) -> str:
    return _REMEDIES.get(path.suffix.lower(), "save it as one of them, or write an adapter (docs/formats/adapter.md)")


def _is_beside(path: Path) -> bool:
    """Files that hold no data, whoever wrote the folder."""
    return path.suffix.lower() in (".md", ".yaml", ".yml") or path.name.upper().startswith(("README", "LICENSE", "LICENCE"))
