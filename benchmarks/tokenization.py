"""How fast values become tokens: `python benchmarks/tokenization.py`; seconds on one core.

Prints milliseconds per million continuous values for encode and decode, beside a plain Python loop over a
sample of the same values on the same machine, and tokens per second of whole episodes.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable

import numpy as np

from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.tokenizers import continuous
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

VALUES, SAMPLE = 1_000_000, 20_000
READINGS = FieldSpec("readings", Modality.CONTINUOUS, "observation", (100,))
MOTORS = FieldSpec("motors", Modality.CONTINUOUS, "action", (100,), low=(-2.0,), high=(2.0,))
STEP = FieldSpec("step", Modality.DISCRETE, "action", dtype="int64", low=(0,), high=(3,))


def best_seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """The fastest of several runs: the one that the rest of the machine disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def encode_in_a_loop(values: list[float]) -> list[int]:
    """What `continuous.encode` does to observations, one value at a time."""
    ids = []
    for x in values:
        unit = math.copysign(math.log(abs(x) * 100 + 1) / math.log(256 * 100 + 1), x)
        ids.append(32000 + min(int((min(max(unit, -1.0), 1.0) + 1) / 2 * 1024), 1023))
    return ids


def decode_in_a_loop(ids: list[int]) -> list[float]:
    values = []
    for i in ids:
        unit = (2 * (i - 32000) + 1) / 1024 - 1
        values.append(math.copysign(((256 * 100 + 1) ** abs(unit) - 1) / 100, unit))
    return values


def continuous_values() -> dict[str, float]:
    vocabulary, rng = Vocabulary(), np.random.default_rng(0)
    values = rng.normal(scale=3, size=(VALUES // 100, 100)).astype(np.float32)
    ids = continuous.encode(READINGS, values, vocabulary)
    actions = np.clip(values, -2, 2)
    sample, sample_ids = values.ravel()[:SAMPLE].tolist(), ids.ravel()[:SAMPLE].tolist()
    scale = VALUES / SAMPLE
    milliseconds = {
        "encode observations": 1e3 * best_seconds(lambda: continuous.encode(READINGS, values, vocabulary)),
        "decode observations": 1e3 * best_seconds(lambda: continuous.decode(READINGS, ids, vocabulary)),
        "encode actions": 1e3 * best_seconds(lambda: continuous.encode(MOTORS, actions, vocabulary)),
        "decode actions": 1e3 * best_seconds(lambda: continuous.decode(MOTORS, ids, vocabulary)),
        "encode observations in a Python loop": 1e3 * scale * best_seconds(lambda: encode_in_a_loop(sample)),
        "decode observations in a Python loop": 1e3 * scale * best_seconds(lambda: decode_in_a_loop(sample_ids)),
    }
    for way in ("encode", "decode"):
        milliseconds[f"ratio of {way}"] = milliseconds[f"{way} observations in a Python loop"] / milliseconds[f"{way} observations"]
    return milliseconds


def episodes() -> dict[str, float]:
    """Tokens per second of `EpisodeTokenizer.encode`, by what the timesteps hold."""
    text = TextTokenizer.train(["go to the red ball", "pick up the green key", "open the blue door"] * 50, vocabulary_size=300)
    tokenizer, rng, T = EpisodeTokenizer(text, Vocabulary.separate_discrete(text.size)), np.random.default_rng(0), 200
    goals = np.array(["go to the red ball next to the blue door"] * T, object)
    seen = {
        "vectors": (FieldSpec("seen", Modality.CONTINUOUS, "observation", (39,)), rng.normal(size=(T, 39)).astype(np.float32)),
        "pictures": (
            FieldSpec("seen", Modality.IMAGE, "observation", (64, 80, 3), "uint8"),
            rng.integers(0, 256, (T, 64, 80, 3), dtype=np.uint8),
        ),
        "instructions": (FieldSpec("seen", Modality.TEXT, "observation", dtype="str"), goals),
    }
    rates = {}
    for name, (spec, values) in seen.items():
        task = TaskSpec(f"benchmark/{name}", (spec, STEP))
        episode = Episode(task, {"seen": values}, {"step": np.zeros(T, np.int64)}, np.zeros(T, np.float32))
        rates[name] = len(tokenizer.encode(episode)) / best_seconds(lambda e=episode: tokenizer.encode(e))
    return rates


def main() -> dict[str, dict[str, float]]:
    found = {"milliseconds per million values": continuous_values(), "tokens per second of whole episodes": episodes()}
    for name, values in found.items():
        print(f"{name}:")
        print(json.dumps({k: round(v, 1) for k, v in values.items()}, indent=1))
    return found


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
