"""`gato data inspect`: what a mixture holds and what training on it would see, task by task.

Episode tables are read whole; timesteps record batch by record batch, evenly spread ones where a source has
more than `MAX_TIMESTEPS`; tokens and rows are drawn as training draws them. Whatever is an estimate
carries the number of samples behind it: `None` there means exact.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gato.batch import Kind, TokenSequence
from gato.data.mixture import Mixture
from gato.data.shards.shard import Shard
from gato.data.source import Piece, Source
from gato.spec import LARGEST_OBSERVATION, FieldSpec, Modality, TaskSpec
from gato.tokenizers import continuous
from gato.tokenizers.text import END

from .coarseness import Coarseness
from .contents import CHUNK_ROWS, MAX_TIMESTEPS
from .duplicates import compare_sources, duplicate_words
from .figures import NUM_BINS, SAMPLED_ROWS, Histogram, Inspection, SourceFigures, TaskFigures

SHOWN_NUMBERS = 8  # of an origin and a scale
SAMPLED_TIMESTEPS = 64  # of one task, where text makes the number of tokens vary


def inspect(mixture: Mixture, steps: int, batch_size: int, max_timesteps: int = MAX_TIMESTEPS) -> Inspection:
    """Reads and samples every source of a mixture; memory is that of a record batch and the episodes' index of a shard.

    **Arguments:** `steps`, `batch_size`: of the training that the epochs are for; `max_timesteps`: see `MAX_TIMESTEPS`.
    """
    sources = [_source_figures(mixture, i, steps * batch_size, max_timesteps) for i in range(len(mixture.sources))]
    for name in ("tokens", "loss"):
        parts = [s.share_of_rows * (s.tokens_per_row if name == "tokens" else s.targets_per_row * s.loss_weight) for s in sources]
        for figures, part in zip(sources, parts, strict=True):
            setattr(figures, f"share_of_{name}", part / max(sum(parts), 1e-12))
    for figures in sources:
        targets = sum(t.targets for t in figures.tasks)
        for t in figures.tasks:
            t.share_of_loss = figures.share_of_loss * t.targets / max(targets, 1)
    duplicates = compare_sources(mixture.sources)
    findings = [*(line for figures in sources for line in _findings(figures)), *map(duplicate_words, duplicates)]
    held_out = list(mixture.config.held_out)
    return Inspection(mixture.context_length, mixture.seed, steps, batch_size, sources, held_out, duplicates, findings)


def _source_figures(mixture: Mixture, index: int, rows: int, max_timesteps: int) -> SourceFigures:
    source = mixture.sources[index]
    tallies = [_Tally(task) for task in source.tasks]
    _scan_episodes(source, tallies)
    _scan_timesteps(source, tallies, max_timesteps)
    generator = np.random.Generator(np.random.Philox(key=mixture.seed, counter=[0, 2, index, 0]))
    for i, tally in enumerate(tallies):
        _count_tokens(source, i, tally.figures, generator)
    taking_part = sum(t.figures.episodes for t in tallies)
    figures = SourceFigures(
        source.name, source.config.loss_weight, float(mixture.shares[index]), source.store.num_episodes - taking_part,
        [t.figures for t in tallies if t.figures.episodes],
    )  # fmt: skip
    figures.unfinished = source.store.manifest.shortfall
    figures.not_imported = source.store.manifest.not_imported
    _sample_rows(mixture, index, figures, rows)
    return figures


# -- episodes --------------------------------------------------------------------------------------


class _Tally:
    """The figures of a task while they are counted."""

    def __init__(self, task: TaskSpec) -> None:
        self.task = task
        self.figures = TaskFigures(task.name, random_return=task.random_return, expert_return=task.expert_return)
        self.total_return, self.lowest, self.highest = 0.0, np.inf, -np.inf
        self.successes = self.known_successes = 0
        self.behaviours: Counter[str] = Counter()
        self.bounds = {f"{f.role}.{f.name}": _bounds(f) for f in task.fields if f.modality in (Modality.CONTINUOUS, Modality.DISCRETE)}
        self.coarseness = {f.name: Coarseness(f) for f in task.observations if f.modality is Modality.CONTINUOUS}
        for spec in task.actions:
            if spec.modality is not Modality.TEXT:
                low, high = spec.bounds
                self.figures.actions[spec.name] = Histogram.empty(float(low.min()), float(high.max()), spec.modality is Modality.DISCRETE)

    def add_episodes(self, shard: Shard, chosen: np.ndarray) -> None:
        index = shard.index
        self.figures.clipped_actions += _clipped_actions(shard, chosen)
        returns = index["return"][chosen]
        self.figures.episodes += len(returns)
        self.figures.timesteps += int(index["length"][chosen].sum())
        self.total_return += float(returns.sum())
        self.lowest, self.highest = min(self.lowest, float(returns.min())), max(self.highest, float(returns.max()))
        known = chosen & index["has_success"]
        self.known_successes += int(known.sum())
        self.successes += int(index["success"][known].sum())
        names, counts = np.unique(index["behaviour"][chosen], return_counts=True)
        self.behaviours.update(dict(zip(names.tolist(), counts.tolist(), strict=True)))

    def finish_episodes(self) -> None:
        figures = self.figures
        if figures.episodes == 0:
            return
        figures.behaviours = dict(self.behaviours.most_common())
        figures.success = self.successes / self.known_successes if self.known_successes else None
        if self.task.is_control:
            figures.returns = {"mean": self.total_return / figures.episodes, "lowest": self.lowest, "highest": self.highest}
            marks = [r for r in (figures.random_return, figures.expert_return) if r is not None]
            low, high = min([self.lowest, *marks]), max([self.highest, *marks])
            figures.return_histogram = Histogram(low, high if high > low else low + 1, [0] * NUM_BINS)

    def add_timesteps(self, name: str, spec: FieldSpec, values: np.ndarray) -> None:
        low, high = self.bounds[name]
        if spec.role == "action":
            self.figures.action_values += values.size
            self.figures.actions[spec.name].add(values)
            if spec.modality is Modality.CONTINUOUS:
                self.figures.actions_at_bounds += int(((values <= low) | (values >= high)).sum())
            return
        self.figures.observation_values += values.size
        self.figures.out_of_bounds += int(((values < low) | (values > high)).sum())
        if spec.modality is Modality.CONTINUOUS:
            coarseness = self.coarseness[spec.name]
            self.figures.clipped += int((np.abs(continuous.measured(coarseness.spec, values)) > LARGEST_OBSERVATION).sum())
            coarseness.add(values)


def _clipped_actions(shard: Shard, chosen: np.ndarray) -> int:
    """What the parameters of a shard's chosen episodes count: those of an import do so themselves, those of ours under `collection`."""
    texts = pa.chunked_array(shard.episodes.column("parameters")).filter(pa.array(chosen))
    total = 0
    for text in texts.filter(pc.match_substring(texts, '"clipped_actions"')).to_pylist():
        parameters = json.loads(text)
        total += int({**parameters, **parameters.get("collection", {})}.get("clipped_actions", 0))
    return total


def _bounds(spec: FieldSpec) -> tuple[np.ndarray, np.ndarray]:
    """In the field's own dtype: float32(0.1) is above 0.1, but not above float32(0.1)."""
    low, high = spec.bounds
    return (low.astype(spec.dtype), high.astype(spec.dtype)) if spec.modality is Modality.CONTINUOUS else (low, high)


def _shards(source: Source) -> Iterator[tuple[Shard, np.ndarray]]:
    """Every shard, and for each of its episodes the index of its task, or -1 where it does not take part."""
    first = 0
    for shard in source.store.shards():
        tasks = shard.index["task_index"].astype(np.int64)
        if source.episodes is not None:
            numbers = np.arange(first, first + len(tasks))
            tasks = np.where(np.isin(numbers, source.episodes), tasks, -1)
        first += len(tasks)
        yield shard, tasks


def _scan_episodes(source: Source, tallies: list[_Tally]) -> None:
    for shard, tasks in _shards(source):
        for i in np.unique(tasks[tasks >= 0]).tolist():
            tallies[i].add_episodes(shard, tasks == i)
    for tally in tallies:
        tally.finish_episodes()
    for shard, tasks in _shards(source):  # again, now that the ends of the histograms are known
        for i, tally in enumerate(tallies):
            if tally.figures.return_histogram is not None:
                tally.figures.return_histogram.add(shard.index["return"][tasks == i])


# -- timesteps -------------------------------------------------------------------------------------


def _scan_timesteps(source: Source, tallies: list[_Tally], max_timesteps: int) -> None:
    """Ranges and histograms of the numeric fields, from all chunks of rows or from evenly spread ones."""
    specs = {f"{f.role}.{f.name}": f for f in source.task.fields if f.modality in (Modality.CONTINUOUS, Modality.DISCRETE)}
    if not specs:
        return
    every = -(-source.store.num_timesteps // max_timesteps)
    seen, number = Counter[int](), 0
    for shard, tasks in _shards(source):
        for start in range(0, shard.timesteps.rows, CHUNK_ROWS):
            number += 1
            if (number - 1) % every:
                continue
            stop = min(start + CHUNK_ROWS, shard.timesteps.rows)
            owners = _owners(shard, tasks, start, stop)
            columns = shard.timesteps.read(list(specs), start, stop)
            for i, count in zip(*np.unique(owners, return_counts=True), strict=True):
                if i >= 0:
                    seen[int(i)] += int(count)
                    chosen = slice(None) if count == stop - start else owners == i
                    for (name, spec), values in zip(specs.items(), columns, strict=True):
                        tallies[i].add_timesteps(name, spec, values[chosen])
    for i, tally in enumerate(tallies):
        tally.figures.scanned_timesteps = None if every == 1 else seen[i]
        tally.figures.coarse = [str(c) for c in tally.coarseness.values() if c.coarse.any()]
        tally.figures.measures = {
            f.name: {"origin": list(f.zero.ravel()), "scale": list(f.unit.ravel())} for f in tally.task.observations if f.scale
        }


def _owners(shard: Shard, tasks: np.ndarray, start: int, stop: int) -> np.ndarray:
    """For each row from `start` to `stop` the task of its episode, or -1."""
    firsts = shard.index["first_row"]
    a, b = int(np.searchsorted(firsts, start, side="right")) - 1, int(np.searchsorted(firsts, stop))
    edges = np.clip(np.append(firsts[a:b], stop), start, stop)
    return np.repeat(tasks[a:b], np.diff(edges))


# -- tokens ----------------------------------------------------------------------------------------


def _count_tokens(source: Source, task_index: int, figures: TaskFigures, generator: np.random.Generator) -> None:
    if figures.episodes == 0:
        return
    if source.is_text and len(source.store.tasks) == 1:
        figures.tokens = figures.targets = source.places.total
        figures.modalities = {"text": 1.0}
        return
    places = source.places_of_task(task_index)
    assert places is not None, "the task has episodes"
    has_text = any(f.modality is Modality.TEXT for f in source.task.fields)
    count = SAMPLED_TIMESTEPS if has_text else 1  # without text all timesteps are alike
    kinds, targets = np.zeros(len(Kind), np.int64), 0
    for place in generator.integers(places.total, size=count).tolist():
        episode = places.find(place)
        t = place - places.span(episode)[0]
        tokens = source.tokenizer.encode(source.episode(Piece("window", episode, t, t + 1), generator))
        kinds += np.bincount(tokens.kind, minlength=len(Kind))
        targets += int(tokens.is_target.sum())
    total = int(kinds.sum())
    figures.tokens = round(figures.timesteps * total / count)
    figures.targets = round(figures.timesteps * targets / count)
    figures.modalities = {kind.name.lower(): int(kinds[kind]) / total for kind in Kind if kinds[kind]}
    figures.sampled_timesteps = count if has_text else None


def _sample_rows(mixture: Mixture, index: int, figures: SourceFigures, rows: int) -> None:
    """What training sees of a source, from the rows 0 to `SAMPLED_ROWS` of update 0 if all were of this source."""
    source, n = mixture.sources[index], SAMPLED_ROWS
    tokens = targets = positions = places = prompts = cut = missing = 0
    for r in range(n):
        row = mixture.row(0, r, source=index)
        has_prompt = row.pieces[0].role != "window"
        tokens += len(row.tokens.ids)
        positions += len(row.tokens)  # fewer in the compact layout
        targets += int(row.tokens.is_predicted.sum())
        prompts += has_prompt
        missing += row.wants_prompt and not has_prompt
        cut += _is_cut(source, row.tokens)
        places += len(row.tokens) if source.is_text else _num_timesteps(row.tokens)
        places -= sum(piece.stop - piece.start for piece in row.pieces if piece.role != "window")
    figures.tokens_per_row, figures.targets_per_row = tokens / n, targets / n
    figures.padding = 1 - positions / n / mixture.context_length
    figures.prompts, figures.missing_prompts, figures.cut = prompts / n, missing / n, cut / n
    figures.epochs = rows * figures.share_of_rows * places / n / source.places.total


def _num_timesteps(tokens: TokenSequence) -> int:
    return 1 + int(((np.diff(tokens.timestep) != 0) | (np.diff(tokens.document) != 0)).sum())


def _is_cut(source: Source, tokens: TokenSequence) -> bool:
    """Whether the row's last timestep lacks tokens at its end. Windows of documents end anywhere, so they are never called cut."""
    if source.is_text:
        return False
    is_last = (tokens.timestep == tokens.timestep[-1]) & (tokens.document == tokens.document[-1])
    kinds = tokens.kind[is_last]
    separators = np.flatnonzero(kinds == Kind.SEPARATOR)
    if source.task.observations and len(separators) == 0:
        return True
    if source.task.actions[-1].modality is Modality.TEXT:
        return int(tokens.ids[-1]) != END
    expected = sum(f.num_tokens or 0 for f in source.task.actions)
    found = len(kinds) - 1 - int(separators[-1]) if len(separators) else len(kinds)
    return found < expected


def _numbers(values: list[float]) -> str:
    shown = " ".join(f"{v:.3g}" for v in values[:SHOWN_NUMBERS])
    return f"[{shown}{' ...' if len(values) > SHOWN_NUMBERS else ''}]"


# -- words -----------------------------------------------------------------------------------------


def _findings(s: SourceFigures) -> list[str]:
    n, lines = s.sampled_rows, []
    if s.unfinished:
        lines.append(f"{s.source}: {s.unfinished}")
    lines += [f"{s.source}: its import left out {what}" for what in s.not_imported]
    if s.left_out:
        lines.append(f"{s.source}: {s.left_out:,} episodes of the store do not take part (part, cap, behaviours or held-out tasks)")
    if s.missing_prompts:
        lines.append(
            f"{s.source}: {s.missing_prompts:.0%} of {n} sampled rows have no prompt, since no timestep fits into half the context"
        )
    if s.padding > 0.25:
        lines.append(f"{s.source}: {s.padding:.0%} of the places of {n} sampled rows are padding; a shorter context would waste less")
    if s.targets_per_row == 0:
        lines.append(f"{s.source}: no target in {n} sampled rows, so nothing is learnt from it")
    for t in s.tasks:
        where, scanned = f"{s.source}: task {t.task}", t.scanned_timesteps or t.timesteps
        if t.clipped_actions:
            lines.append(f"{where}: {t.clipped_actions:,} action values of {t.timesteps:,} timesteps were clipped when they were recorded")
        if t.out_of_bounds:
            lines.append(f"{where}: {t.out_of_bounds:,} observation values of {scanned:,} timesteps lie outside their declared range")
        if t.clipped:
            lines.append(f"{where}: {t.clipped:,} observation values of {scanned:,} timesteps are clipped by the tokenizer (beyond ±256)")
        lines += [f"{where}: {line}" for line in t.coarse]
        for name, measure in t.measures.items():
            origin, scale = (_numbers(measure[part]) for part in ("origin", "scale"))
            lines.append(f"{where}: observation '{name}' is measured from {origin} in units of {scale}")
    return lines
