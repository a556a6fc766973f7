"""RIM as a memory, supervised: copying, adding, digits read pixel by pixel; and what it costs beside an LSTM.

    python benchmarks/rim.py copy --varied --recalled 3 --length 5 --hidden 96 --steps 1500 --learning_rate 0.01 --seeds 3
    python benchmarks/rim.py adding --steps 2000 --seeds 3
    python benchmarks/rim.py digits --steps 2000 --seeds 3      # needs scikit-learn, whose digits come with it
    python benchmarks/rim.py cost

print rows of docs/results/rim.md, a JSON line each. A model is `lstm`, or `rim-K`: of K active blocks among `--blocks`. Copying is judged
at the positions of recall alone, since an average over all of them is small for a network that recalls nothing; the state begins at
zero with every sequence. All models see an embedded input, and the same learning rate, which warms up over 50 updates
and then falls along a cosine.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gato.learners.ppo.rim import RIM

SYMBOLS, MARKER = 8, 9  # 0 is a blank
WARM_UP = 50  # updates
TOLD = 500  # updates between two words on how it goes
Drawn = tuple[Tensor, Tensor]


class Model(nn.Module):
    """(B, T, inputs) -> (B, T, outputs)."""

    def __init__(self, kind: str, inputs: int, outputs: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.is_lstm, self.scale = kind == "lstm", math.sqrt(inputs)  # so that a one-hot input has entries of mean square 1
        # both see an embedding: a RIM has one of its own
        self.embedding = nn.Linear(inputs, hidden) if self.is_lstm else nn.Identity()
        self.memory = nn.LSTM(hidden, hidden, batch_first=True) if self.is_lstm else RIM(inputs, hidden, blocks, int(kind[4:]))
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        if self.is_lstm:
            return self.head(self.memory(self.embedding(x))[0])
        start, first = x.new_zeros(len(x), self.memory.size), torch.zeros(x.shape[:2], dtype=torch.bool)
        return self.head(self.memory(x, start, first)[0])


@dataclass(frozen=True)
class Task:
    """`draw(generator, rows, length)` gives inputs and targets, which `loss` and `scores` judge; `lengths`: of training, then of tests."""

    inputs: int
    outputs: int
    lengths: tuple[int, ...]
    clip: float
    draw: Callable[[np.random.Generator, int, int], Drawn]
    loss: Callable[[Tensor, Tensor], Tensor]
    test: Callable[[int], Drawn]
    scores: dict[str, Callable[[Tensor, Tensor], float]]


def copying(length: int, recalled: int) -> Task:
    """`recalled` symbols, `length` - 1 blanks, a marker, and then the symbols are to be said."""

    def draw(generator: np.random.Generator, rows: int, delay: int) -> Drawn:
        symbols = generator.integers(1, SYMBOLS + 1, (rows, recalled))
        x = np.zeros((rows, recalled + delay + recalled), np.int64)
        x[:, :recalled], x[:, recalled + delay - 1] = symbols, MARKER
        y = np.zeros_like(x)
        y[:, -recalled:] = symbols
        return F.one_hot(torch.from_numpy(x), MARKER + 1).float(), torch.from_numpy(y)

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), y.flatten())

    def entropy(outputs: Tensor, y: Tensor) -> float:
        return float(loss(outputs[:, -recalled:], y[:, -recalled:]))

    def right(outputs: Tensor, y: Tensor) -> float:
        return float((outputs[:, -recalled:].argmax(dim=-1) == y[:, -recalled:]).float().mean())

    lengths = (length, 2 * length, 5 * length)
    return Task(MARKER + 1, MARKER, lengths, 1.0, draw, loss, _fresh(draw), {"cross_entropy": entropy, "accuracy": right})


def adding(length: int) -> Task:
    """Two of `length` numbers are marked; their sum is to be said at the end. Saying 1 always has an error of 0.167."""

    def draw(generator: np.random.Generator, rows: int, steps: int) -> Drawn:
        numbers, marks = generator.uniform(size=(rows, steps)), np.zeros((rows, steps))
        for row in range(rows):
            marks[row, [generator.integers(steps // 2), generator.integers(steps // 2, steps)]] = 1
        x = np.stack([numbers, marks], axis=2).astype(np.float32)
        return torch.from_numpy(x), torch.from_numpy((numbers * marks).sum(axis=1).astype(np.float32))

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(outputs[:, -1, 0], y)

    scores = {"squared_error": lambda outputs, y: float(loss(outputs, y))}
    return Task(2, 1, (length, 2 * length, 4 * length), 0.1, draw, loss, _fresh(draw), scores)


def digits(size: int) -> Task:
    """scikit-learn's digits of 8 x 8 pixels, read one after the other; the test digits are larger ones, too."""
    from PIL import Image
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    pictures, order = pictures.reshape(-1, 8, 8).astype(np.float32) / 16, np.random.default_rng(0).permutation(len(labels))
    train, test = order[:1400], order[1400:]

    def shown(which: np.ndarray, side: int) -> Drawn:
        x = np.stack([np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BILINEAR)) for p in pictures[which]])
        return torch.from_numpy(x.reshape(len(which), -1, 1)), torch.from_numpy(labels[which].astype(np.int64))

    def draw(generator: np.random.Generator, rows: int, side: int) -> Drawn:
        return shown(generator.choice(train, rows), side)

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs[:, -1], y)

    def right(outputs: Tensor, y: Tensor) -> float:
        return float((outputs[:, -1].argmax(dim=-1) == y).float().mean())

    return Task(1, 10, (size, size + 1, size + 2, size + 4), 1.0, draw, loss, lambda side: shown(test, side), {"accuracy": right})


TASKS: dict[str, tuple[Callable[..., Task], int]] = {"copy": (copying, 20), "adding": (adding, 50), "digits": (digits, 8)}


def run(name: str, kind: str, seed: int, options: argparse.Namespace) -> dict:
    """Trains a model, and judges it at the training length and beyond."""
    make, usual = TASKS[name]
    length = options.length or usual
    task, start = make(length, options.recalled) if name == "copy" else make(length), time.process_time()
    torch.manual_seed(seed)
    model = Model(kind, task.inputs, task.outputs, options.hidden, options.blocks)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    generator = np.random.default_rng(seed)
    for step in range(options.steps):
        length = int(generator.integers(1, task.lengths[0] + 1)) if options.varied else task.lengths[0]
        x, y = task.draw(generator, options.rows, length)
        loss = task.loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), task.clip)
        optimizer.param_groups[0]["lr"] = options.learning_rate * share(step, options.steps)
        optimizer.step()
        if step % TOLD == TOLD - 1:
            print(f"{kind} {seed}: {step + 1} updates, loss {loss.item():.4f}", file=sys.stderr, flush=True)
    model.eval()
    row = {"task": name, "model": kind, "seed": seed, "steps": options.steps, "hidden": options.hidden, "length": task.lengths[0]}
    row |= {"varied": True} if options.varied else {}
    row |= {"parameters": sum(p.numel() for p in model.parameters()), "seconds": round(time.process_time() - start, 1)}
    row["loss"] = round(loss.item(), 5)
    for length in task.lengths:
        x, y = task.test(length)
        with torch.no_grad():
            outputs = model(x)
        row |= {f"{score}@{length}": round(judge(outputs, y), 4) for score, judge in task.scores.items()}
    return row


def share(step: int, steps: int) -> float:
    """Of the learning rate in an update."""
    return min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


def cost(repeats: int) -> list[dict]:
    """Milliseconds of one core for forward and backward, the least of some: a RIM beside torch's fused LSTM of equal hidden size."""
    rows = []
    for batch, steps, hidden, blocks, active in ((64, 70, 600, 6, 4), (64, 40, 120, 6, 4), (16, 40, 128, 4, 2), (16, 20, 64, 4, 2)):
        x, taken = torch.randn(batch, steps, hidden), {}
        for kind in ("lstm", f"rim-{active}"):
            model, times = Model(kind, hidden, 1, hidden, blocks), []
            for _ in range(repeats):
                start = time.process_time()
                model(x).square().mean().backward()
                times.append(time.process_time() - start)
            taken[kind[:4].strip("-")] = 1000 * min(times)
        row = {"rows": batch, "timesteps": steps, "hidden": hidden, "blocks": blocks, "active": active}
        row |= {f"{kind}_ms": round(ms, 2) for kind, ms in taken.items()}
        rows.append(row | {"ratio": round(taken["rim"] / taken["lstm"], 2)})
    return rows


def _fresh(draw: Callable[[np.random.Generator, int, int], Drawn]) -> Callable[[int], Drawn]:
    """500 rows that training never drew."""
    return lambda length: draw(np.random.default_rng(10**6), 500, length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=[*TASKS, "cost"])
    parser.add_argument("--models", nargs="+", default=["lstm", "rim-3", "rim-6"])
    numbers = {"hidden": 120, "blocks": 6, "steps": 2000, "rows": 64, "seeds": 1, "first_seed": 0}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--recalled", type=int, default=10, help="symbols to be copied")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--varied", action="store_true", help="in training, any length from 1 to --length, drawn for every update")
    parser.add_argument("--length", type=int, help="of training: blanks, numbers, or pixels along a side")
    options = parser.parse_args()
    if options.varied and options.task != "copy":
        parser.error("--varied is for copy, whose blanks may be few")
    torch.set_num_threads(1)
    if options.task == "cost":
        for row in cost(options.rows):
            print(json.dumps(row), flush=True)
        return
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for kind in options.models:
            print(json.dumps(run(options.task, kind, seed, options)), flush=True)


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))
