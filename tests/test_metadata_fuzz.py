"""Metadata of LeRobot and Minari datasets with values that nobody expects: read right, or refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data.formats.lerobot.reader import LeRobotReader
from tests.mutations import fuzz, mutated_bytes, mutated_value, one_of, seeds

FIXTURES = Path(__file__).parent / "fixtures"


def read_json(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def write_json(path: Path, value: Any) -> None:
    is_lines = path.suffix == ".jsonl" and isinstance(value, list)
    path.write_text("".join(json.dumps(v) + "\n" for v in value) if is_lines else json.dumps(value))


def one_mutated(files: list[Path]) -> Callable[[np.random.Generator], Path]:
    """Damages one of the files and puts the others back."""
    whole = {path: path.read_bytes() for path in files}

    def made(rng: np.random.Generator) -> Path:
        for path, content in whole.items():
            path.write_bytes(content)
        path = one_of(rng, files)
        if rng.random() < 0.2:
            path.write_bytes(mutated_bytes(rng, whole[path]))
        else:
            write_json(path, mutated_value(rng, read_json(path)))
        return path

    return made


@seeds(fast=200, slow=5_000)
@pytest.mark.parametrize("version", ["v21", "v30"])
def test_mutated_metadata_of_lerobot(tmp_path, version, seeds):
    folder = tmp_path / version
    shutil.copytree(FIXTURES / f"lerobot_{version}", folder)
    info = read_json(folder / "meta" / "info.json")
    cameras = [name for name, feature in info["features"].items() if feature["dtype"] in ("video", "image")]
    info["features"] = {name: feature for name, feature in info["features"].items() if name not in cameras}
    write_json(folder / "meta" / "info.json", info)
    length = sum(e.num_timesteps for e in LeRobotReader().open(folder).episodes("train", 0))

    def read(_: Path) -> None:
        dataset = LeRobotReader().open(folder)
        episodes = [e for split in dataset.splits for e in dataset.episodes(split, 0)]
        assert len(episodes) == sum(dataset.splits.values())
        if not dataset.left_out.counts:
            assert sum(e.num_timesteps for e in episodes) == length

    files = sorted(p for p in (folder / "meta").iterdir() if p.suffix in (".json", ".jsonl"))
    counts = fuzz(seeds, one_mutated(files), read)
    assert min(counts.values()) > len(seeds) / 20


@pytest.mark.filterwarnings("ignore::UserWarning")
@seeds(fast=400, slow=4_000)
def test_mutated_metadata_of_minari(tmp_path, monkeypatch, seeds):
    pytest.importorskip("minari", reason="pip install 'opengato[minari]'")
    from gato.data.formats.minari import MinariReader
    from tests.test_minari import buffer, dataset

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    dataset(buffer(3), buffer(2))
    (path,) = (tmp_path / "datasets").rglob("data/metadata.json")

    def read(_: Path) -> None:
        episodes = list(MinariReader().open(path.parent).episodes("train", 0))
        assert sum(e.num_timesteps for e in episodes) == 5

    counts = fuzz(seeds, one_mutated([path]), read)
    assert min(counts.values()) > len(seeds) / 20
