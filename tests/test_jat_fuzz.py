"""JAT-style files of any sort are read right or refused in one line."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gato.data.formats.jat import JatReader
from tests.mutations import fuzz, mutated_bytes, mutated_text, mutated_value, one_of, seeds


def picture(value: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def row(length: int) -> dict[str, Any]:
    steps = [t / 4 for t in range(length)]
    return {
        "continuous_observations": [[s, -s] for s in steps], "discrete_observations": [[t % 3] for t in range(length)],
        "text_observations": [f"step {t}" for t in range(length)], "instruction": "go", "continuous_actions": [[s] for s in steps],
        "rewards": [1.0] * length, "success": True, "seed": length, "terminated": True, "behaviour": "human",
    }  # fmt: skip


ROWS = [row(3), row(1), row(2)]


def read(path: Path, num_timesteps: int | None) -> None:
    """As many episodes as the file has rows, and as many timesteps as its rewards."""
    dataset = JatReader().open(path)
    episodes = [e for split in dataset.splits for e in dataset.episodes(split, 0)]
    assert len(episodes) == sum(dataset.splits.values())
    if num_timesteps is not None:
        assert sum(e.num_timesteps for e in episodes) == num_timesteps


def rewards(rows: Any) -> int | None:
    try:
        return sum(len(r["rewards"]) for r in rows)
    except (TypeError, KeyError):
        return None


@seeds(fast=800, slow=9_000)
def test_mutated_lines(tmp_path, seeds):
    path = tmp_path / "train.jsonl"

    def made(rng: np.random.Generator) -> int | None:
        rows = mutated_value(rng, ROWS)
        text = "".join(json.dumps(r) + "\n" for r in rows)
        kind = int(rng.integers(4))
        content = mutated_bytes(rng, text.encode()) if kind == 0 else mutated_text(rng, text).encode() if kind == 1 else text.encode()
        path.write_bytes(content)
        return rewards(rows) if kind > 1 else None

    counts = fuzz(seeds, made, lambda number: read(path, number))
    assert min(counts.values()) > len(seeds) / 20


@seeds(fast=400, slow=5_000)
def test_mutated_parquet_files(tmp_path, seeds):
    """Their values; of mutated bytes pyarrow 26 ends the process where the statistics of a column are damaged (about 1 in 240)."""
    path = tmp_path / "train-00000-of-00001.parquet"  # removed before it is written again: what is mapped must not change
    rows = [r | {"image_observations": [picture(t) for t in range(len(r["rewards"]))]} for r in ROWS]

    def made(rng: np.random.Generator) -> int | None:
        path.unlink(missing_ok=True)
        given = rows if rng.random() < 0.3 else mutated_value(rng, rows)
        name = one_of(rng, rows[0])
        try:
            table = pa.Table.from_pylist(given)
            if name in table.column_names and rng.random() < 0.2:  # one value a row, or the column twice
                table = table.append_column(name, pa.array(range(len(table)))) if rng.random() < 0.3 else table.set_column(
                    table.column_names.index(name), name, pa.array(range(len(table)))
                )  # fmt: skip
            pq.write_table(table, path, row_group_size=2)
        except (pa.ArrowException, ValueError, TypeError, OverflowError, AttributeError):  # what parquet cannot hold
            given = rows
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        return rewards(given)

    counts = fuzz(seeds, made, lambda number: read(path, number))
    assert min(counts.values()) > len(seeds) / 20
