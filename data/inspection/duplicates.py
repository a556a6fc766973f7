"""Episodes that stand in the data more than once, within a store and across stores: a test split that was trained on.

Whole episodes are compared by a digest of every value, pictures also by how they look: 63 signs of the low
frequencies of the grey picture (a perceptual hash; it survives scaling and JPEG) and 4 x 4 mean colours, since
a red and a green ball are the same in grey. Work and memory grow with the number of episodes, not with its square.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gato.data.source import Source
from gato.data.store import Store
from gato.episode import Episode
from gato.progress import Progress
from gato.spec import Modality, TaskSpec

MAX_BITS = 6  # of the hash; of sample pictures scaled or saved as JPEG (quality 60), at least 99 % stay within
MAX_COLOUR = 6.0  # mean difference of the mean colours, of 255
MAX_COMPARED, MAX_COMPARED_TIMESTEPS = 20_000, 200_000  # of a source or split
MAX_EXAMPLES = 3  # that are named
WINDOW = 32  # neighbours in a bucket that a picture is compared with

_BANDS = 8  # of 8 bits; where at most 6 bits differ, at least two bands agree

Group = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Duplicates:
    """Groups of at least two episodes, each a `(store index, episode)`.

    - `stores`: the folders that were searched.
    - `exact`: episodes that are equal in every value.
    - `near`: episodes of one timestep whose pictures look alike or are equal, whatever their texts say; alike goes from
      neighbour to neighbour, so the ends of a large group may differ more.
    """

    stores: tuple[str, ...]
    exact: tuple[Group, ...]
    near: tuple[Group, ...]

    def examples(self, a: int, b: int) -> list[tuple[int, int]]:
        """Up to `MAX_EXAMPLES` pairs of episodes, one of store a and one of store b, that are equal or look alike."""
        pairs = []
        for group in (*self.exact, *self.near):
            mine, theirs = ([i for store, i in group if store == k] for k in (a, b))
            if a == b and len(mine) > 1:
                pairs.append((mine[0], mine[1]))
            elif a != b and mine and theirs:
                pairs.append((mine[0], theirs[0]))
            if len(pairs) == MAX_EXAMPLES:
                break
        return pairs

    def rows(self) -> list[dict[str, Any]]:
        """A row per pair of stores: how many episodes of `other` are in `store` too.

        Where both are the same store: how many could go without a loss.
        """
        exact, near = _counts(self.exact), _counts(self.near)
        pairs = [(a, b) for a in range(len(self.stores)) for b in range(a, len(self.stores))]
        return [{"store": self.stores[a], "other": self.stores[b], "exact": exact[a, b], "near": near[a, b]} for a, b in pairs]


def find_duplicates(stores: Sequence[Store], episodes: Sequence[np.ndarray] | None = None) -> Duplicates:
    """Reads every episode once and keeps 80 bytes of each.

    **Arguments:** `episodes`: for each store the numbers of those that are compared; all by default.

    Two pictures that are alike are found if they share a bucket of at most `WINDOW` pictures; in a larger one, the
    `WINDOW` neighbours by hash are compared. Episodes count as equal by 64 bits of a digest: among ten million, one
    wrong pair has a chance of about 3 in a million.
    """
    places: list[tuple[int, int]] = []
    digests, picture_digests, hashes, colours = array("Q"), array("Q"), array("Q"), bytearray()
    pictured = array("Q")  # which episodes have a picture
    chosen = [np.arange(store.num_episodes) for store in stores] if episodes is None else episodes
    with Progress("looking for duplicates", sum(map(len, chosen))) as progress:
        for store_index, (store, numbers) in enumerate(zip(stores, chosen, strict=True)):
            images = [_picture_field(task) for task in store.tasks]
            for i, task_index in zip(numbers.tolist(), store.task_indices[numbers].tolist(), strict=True):
                episode, image = store.episode(i), images[task_index]
                digests.append(_digest(_values(episode)))
                if image is not None:
                    pixels = episode.observations[image][0]
                    pictured.append(len(places))
                    picture_digests.append(_digest({image: pixels}))
                    hashes.append(perceptual_hash(pixels))
                    colours += mean_colours(pixels).tobytes()
                places.append((store_index, i))
                progress.advance()
    exact = _equal(np.array(digests, np.uint64))
    same = _equal(np.array(picture_digests, np.uint64))
    repeated = {int(i) for group in same for i in group[1:]}  # one of each will do; else equal pictures would fill the windows
    kept = np.array([i for i in range(len(hashes)) if i not in repeated], np.int64)
    looks = np.array(hashes, np.uint64)[kept], np.frombuffer(bytes(colours), np.uint8).reshape(-1, 48)[kept]
    near = _joined([*(map(int, g) for g in same), *((int(kept[a]), int(kept[b])) for a, b in _alike(*looks))])
    return Duplicates(
        stores=tuple(str(store.path) for store in stores),
        exact=tuple(tuple(places[i] for i in group) for group in exact),
        near=tuple(tuple(places[pictured[i]] for i in group) for group in near),
    )


def compare_sources(sources: Sequence[Source], max_episodes: int = MAX_COMPARED) -> list[dict[str, Any]]:
    """Which episodes of a mixture stand twice: within a source, in two of them, or in one and in what it may be measured on.

    The latter are the episodes of its store that do not take part, and the other splits of its import: the stores
    in the same folder that hold the same tasks.

    **Arguments:** `max_episodes`: of a source or split; of more, or of more than `MAX_COMPARED_TIMESTEPS`, evenly spread ones are compared.

    **Returns:** a row per pair that shares something: `source`, `other`, `exact` and `near` as in `Duplicates.rows`,
    `compared` of `episodes`, those of both sides together, and `examples` as in `Duplicates.examples`.
    """
    sides = [(s.name, s.store, np.arange(s.store.num_episodes) if s.episodes is None else s.episodes) for s in sources]
    sides += [*_left_out(sources), *_other_splits(sources)]
    chosen = [numbers[:: _stride(store, numbers, max_episodes)] for _, store, numbers in sides]
    found = find_duplicates([store for _, store, _ in sides], chosen)
    rows = []
    pairs = combinations_with_replacement(range(len(sides)), 2)
    for (a, b), row in zip(pairs, found.rows(), strict=True):
        if a < len(sources) and (row["exact"] or row["near"]):
            both = {a, b}
            rows.append(
                {"source": sides[a][0], "other": sides[b][0], "exact": row["exact"], "near": row["near"]}
                | {"compared": sum(len(chosen[i]) for i in both), "episodes": sum(len(sides[i][2]) for i in both)}
                | {"examples": found.examples(a, b)}
            )
    return rows


def duplicate_words(row: dict[str, Any]) -> str:
    """A row of `compare_sources` as a sentence."""
    kinds = [
        f"{row[kind]:,} {words}"
        for kind, words in (("exact", "equal in every value"), ("near", "with a picture that looks alike"))
        if row[kind]
    ]
    examples = f", such as {', '.join(f'{i} and {j}' for i, j in row['examples'])}"
    sampled = f" (compared were {row['compared']:,} of {row['episodes']:,} episodes)" if row["compared"] < row["episodes"] else ""
    if row["source"] == row["other"]:
        return f"{row['source']}: episodes that repeat others of it: {', '.join(kinds)}{examples}{sampled}"
    return f"{row['source']}: episodes of {row['other']} that stand in it too: {', '.join(kinds)}{examples}{sampled}"


def _left_out(sources: Sequence[Source]) -> Iterator[tuple[str, Store, np.ndarray]]:
    """The episodes of each store that no source trains on."""
    by_store: dict[Path, list[Source]] = {}
    for source in sources:
        by_store.setdefault(source.store.path, []).append(source)
    for sharing in by_store.values():
        store = sharing[0].store
        taken = [source.episodes for source in sharing if source.episodes is not None]
        if len(taken) == len(sharing) and len(rest := np.setdiff1d(np.arange(store.num_episodes), np.concatenate(taken))):
            yield f"what {sharing[0].name} leaves out", store, rest


def _stride(store: Store, numbers: np.ndarray, max_episodes: int) -> int:
    timesteps = int(store.lengths[numbers].sum())
    return max(1, -(-len(numbers) // max_episodes), -(-timesteps // MAX_COMPARED_TIMESTEPS))


def _other_splits(sources: Sequence[Source]) -> Iterator[tuple[str, Store, np.ndarray]]:
    known = {source.store.path.resolve() for source in sources}
    for source in sources:
        for path in sorted(source.store.path.resolve().parent.glob("*/manifest.json")):
            if path.parent in known:
                continue
            known.add(path.parent)
            store = Store(path.parent)
            if [t.name for t in store.tasks] == [t.name for t in source.store.tasks]:
                yield f"split {path.parent.name} beside {source.name}", store, np.arange(store.num_episodes)


def perceptual_hash(pixels: np.ndarray) -> int:
    """64 bits of a picture (rows, columns, 3) uint8: which low frequencies of its grey are above their median."""
    from scipy.fft import dctn

    grey = Image.fromarray(np.asarray(pixels)).convert("L").resize((32, 32), Image.Resampling.BOX)
    low = dctn(np.asarray(grey, np.float64), norm="ortho")[:8, :8].ravel()
    low[0] = -np.inf  # the mean brightness says nothing about what is seen
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes(), "big")


def mean_colours(pixels: np.ndarray) -> np.ndarray:
    """(4, 4, 3) uint8: the mean colours of a picture's parts."""
    return np.array(Image.fromarray(np.asarray(pixels)).resize((4, 4), Image.Resampling.BOX))


def _picture_field(task: TaskSpec) -> str | None:
    images = [f.name for f in task.observations if f.modality is Modality.IMAGE]
    return images[0] if images and not task.is_control else None


def _values(episode: Episode) -> dict[str, Any]:
    named = {**{f"observation.{k}": v for k, v in episode.observations.items()}, **{f"action.{k}": v for k, v in episode.actions.items()}}
    return {**named, "rewards": episode.rewards}


def _digest(values: Mapping[str, Any]) -> int:
    total = hashlib.blake2b(digest_size=8)
    for name in sorted(values):
        value = np.asarray(values[name])
        content = repr(value.tolist()).encode() if value.dtype == object else np.ascontiguousarray(value).tobytes()
        total.update(f"{name} {value.shape} {value.dtype} {len(content)}\n".encode() + content)
    return int.from_bytes(total.digest(), "big")


def _equal(keys: np.ndarray) -> list[np.ndarray]:
    """Indices of equal keys, a group each, where there are at least two."""
    order = np.argsort(keys, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if len(keys) else []
    return [group for group in groups if len(group) > 1]


def _alike(hashes: np.ndarray, colours: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of pictures whose hashes (n,) uint64 and colours (n, 48) uint8 differ little.

    Two bands of the hash are the key of a bucket: pictures that are alike meet in at least one of the 28 tables.
    """
    bands = hashes.astype(">u8").view(np.uint8).reshape(-1, _BANDS)
    for a, b in combinations(range(_BANDS), 2):
        keys = bands[:, a].astype(np.uint16) << 8 | bands[:, b]
        order = np.lexsort((hashes, keys))
        for distance in range(1, min(WINDOW + 1, len(order))):
            left, right = order[:-distance], order[distance:]
            is_shared = keys[left] == keys[right]
            if not is_shared.any():
                break
            left, right = left[is_shared], right[is_shared]
            bits = np.unpackbits(bands[left] ^ bands[right], axis=1).sum(axis=1)
            left, right = left[bits <= MAX_BITS], right[bits <= MAX_BITS]
            difference = np.abs(colours[left].astype(np.int16) - colours[right]).mean(axis=1)
            yield from zip(left[difference <= MAX_COLOUR].tolist(), right[difference <= MAX_COLOUR].tolist(), strict=True)


def _joined(groups: Sequence[Any]) -> list[list[int]]:
    """Groups that share a member are one."""
    leader: dict[int, int] = {}

    def find(i: int) -> int:
        while (above := leader.setdefault(i, i)) != i:
            leader[i] = leader[above]
            i = above
        return i

    for first, *others in map(list, groups):
        for other in others:
            leader[find(other)] = find(first)
    members: dict[int, list[int]] = {}
    for i in sorted(leader):
        members.setdefault(find(i), []).append(i)
    return list(members.values())


def _counts(groups: Sequence[Group]) -> Counter[tuple[int, int]]:
    counts: Counter[tuple[int, int]] = Counter()
    for group in groups:
        found = sorted(Counter(store for store, _ in group).items())
        counts.update({(store, store): number - 1 for store, number in found})
        counts.update({(a, b): number for (a, _), (b, number) in combinations(found, 2)})
    return counts
