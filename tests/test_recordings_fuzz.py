"""Own recordings of any sort are read right or refused in one line: mutations of each format, and of the spec."""

import contextlib
import csv
import io
from pathlib import Path

import numpy as np
import pytest
import yaml

from gato.data.formats.recordings.first_spec import first_spec
from gato.data.formats.recordings.reader import Recordings
from tests.mutations import fuzz, mutated_array, mutated_bytes, mutated_names, mutated_text, mutated_value, one_of, seeds

SPEC = """
task: lab/arm
observations:
  joints: {key: obs/joints, next: next/joints}
  gear: {key: obs/gear, next: next/gear, low: 0, high: 9}
  camera: {key: obs/camera, modality: image}
instruction: {key: goal}
actions:
  motors: {key: act, low: -1, high: 1}
  grip: {key: grip, infer: true}
reward: rew
terminated: done
"""
TABLE_SPEC = """
task: lab/table
episodes: {key: episode}
observations: {arm: [x, y], gear: {key: gear, infer: true}}
instruction: {key: goal}
actions: {push: {key: push, low: -1, high: 1}}
reward: score
terminated: done
"""
TABLE = "episode,x,y,gear,goal,push,score,done\n" + "".join(
    f"run {i},{t / 4},{i - 0.5},{t},take {i},{t / 5},1.5,{int(t == 3)}\n" for i in range(3) for t in range(4)
)


def arrays(length: int = 4) -> dict[str, np.ndarray]:
    """One episode; whatever is read of it has `length` timesteps."""
    steps = np.arange(length, dtype=np.float32)
    return {
        "obs/joints": np.stack([steps, -steps], 1), "next/joints": np.stack([steps + 1, -steps - 1], 1), "obs/gear": np.arange(length) % 3,
        "next/gear": np.arange(length) % 4, "obs/camera": np.full((length + 1, 16, 16), 7, np.uint8), "goal": np.array("pick it up"),
        "act": steps[:, None] / length,
        "grip": np.arange(length) % 2, "rew": steps, "done": np.arange(length) == length - 1,
    }  # fmt: skip


def mutated_arrays(rng: np.random.Generator) -> dict[str, np.ndarray]:
    found = arrays()
    if rng.random() < 0.2:
        return mutated_names(rng, found)
    name = one_of(rng, found)
    return found | {name: mutated_array(rng, found[name])}


def read(path: Path, spec: Path, timesteps: int | None = None) -> None:
    """All episodes; as many timesteps as there should be, where that is known, and no more than are counted."""
    dataset = Recordings(spec).open(path)
    episodes = [e for split in dataset.splits for e in dataset.episodes(split, 0)]
    assert len(episodes) == sum(dataset.splits.values())
    if timesteps is not None and not dataset.left_out.counts:
        assert sum(e.num_timesteps for e in episodes) == timesteps


def first(path: Path) -> None:
    """The printed spec is YAML, and the file is read with it or refused."""
    spec = path.with_suffix(".yaml")
    spec.write_text(first_spec(path), encoding="utf-8")
    assert isinstance(yaml.safe_load(spec.read_text(encoding="utf-8")), dict)
    with contextlib.redirect_stdout(io.StringIO()):
        read(path, spec)


def written(folder: Path, text: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@seeds(fast=500, slow=5_000)
def test_mutated_npz_files(tmp_path, seeds):
    spec, path = written(tmp_path, SPEC), tmp_path / "run.npz"

    def made(rng):
        found = mutated_arrays(rng)
        np.savez(path, **{k.replace("\0", "") or "_": v for k, v in found.items()})
        if rng.random() < 0.3:
            path.write_bytes(mutated_bytes(rng, path.read_bytes()))
            return None
        return found

    def length(found):
        return None if found is None else len(np.atleast_1d(found.get("act", ())))

    counts = fuzz(seeds, made, lambda found: read(path, spec, length(found)))
    assert min(counts.values()) > len(seeds) / 20


@seeds(fast=600, slow=5_000)
def test_mutated_tables(tmp_path, seeds):
    spec, path = written(tmp_path, TABLE_SPEC), tmp_path / "log.csv"

    def made(rng):
        text = mutated_text(rng, TABLE)
        content = text.encode()
        kind = int(rng.integers(5))
        if kind == 0:
            content = mutated_bytes(rng, content)
        if kind == 1:
            content = text.encode(one_of(rng, ("utf-16", "utf-8-sig", "latin-1", "utf-32", "utf-16-le")), "replace")
        if kind == 2:
            content = text.replace(",", one_of(rng, (";", "\t", "|", " "))).encode()
        path.write_bytes(content)
        return text if kind > 2 and '"' not in text and "\r" not in text else None

    def rows(text: str) -> int:
        return len(list(csv.reader(line for line in text.split("\n") if line.strip()))) - 1

    counts = fuzz(seeds, made, lambda text: read(path, spec, None if text is None else rows(text)))
    assert min(counts.values()) > len(seeds) / 20


@seeds(fast=500, slow=5_000)
def test_mutated_specs(tmp_path, seeds):
    path = tmp_path / "run.npz"
    np.savez(path, **arrays())
    given = yaml.safe_load(SPEC)

    def made(rng):
        if rng.random() < 0.3:
            return written(tmp_path, mutated_text(rng, SPEC))
        text = yaml.safe_dump(mutated_value(rng, given), allow_unicode=True)
        (tmp_path / "spec.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
        return tmp_path / "spec.yaml"

    counts = fuzz(seeds, made, lambda spec: read(path, spec, 4))
    assert min(counts.values()) > len(seeds) / 20


@seeds(fast=300, slow=5_000)
def test_first_specs_of_mutated_files(tmp_path, seeds):
    def made(rng):
        if rng.random() < 0.5:
            path = tmp_path / "log.csv"
            path.write_text(mutated_text(rng, TABLE))
            return path
        path = tmp_path / "run.npz"
        np.savez(path, **{k.replace("\0", "") or "_": v for k, v in mutated_arrays(rng).items()})
        return path

    counts = fuzz(seeds, made, first)
    assert min(counts.values()) > len(seeds) / 20


@seeds(fast=150, slow=5_000)
def test_mutated_hdf5_files(tmp_path, seeds):
    h5py = pytest.importorskip("h5py", reason="needs the extra 'hdf5'")
    spec = written(tmp_path, SPEC.replace("observations:", "episodes: data/*\nobservations:", 1).replace("{key: goal}", "{key: '@goal'}"))
    path = tmp_path / "run.h5"

    def made(rng: np.random.Generator) -> int | None:
        groups = [mutated_arrays(rng), arrays(2)]
        with h5py.File(path, "w") as file:
            for i, found in enumerate(groups):
                group = file.create_group(f"data/demo_{i}")
                group.attrs["goal"] = one_of(rng, ("go", "go", "go", b"gr\xc3\xbc", b"\xff", 3, [1.5], ["a", "b"])) if i == 0 else "go"
                for name, value in found.items():
                    try:
                        group[name.replace("\0", "") or "_"] = value.astype("S") if value.dtype.kind == "U" else value
                    except (TypeError, ValueError, OSError):  # what HDF5 cannot hold
                        group.pop(name, None)
            act = file["data/demo_0"].get("act")
            return None if not isinstance(act, h5py.Dataset) or not act.shape else act.shape[0] + 2

    counts = fuzz(seeds, made, lambda number: read(path, spec, number))
    assert min(counts.values()) > len(seeds) / 20
