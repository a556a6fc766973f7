"""What an import leaves out: rows without words, which are counted always, and bad rows, of which the user allows so many.

A reader passes over its source twice, to count (`open`) and to read (`episodes`). A row that is bad as it stands is met by
both and counts once (`row`). An episode that turns out bad only when it is made, such as a damaged picture, has its place
among the episodes that were counted (`episode`): the store remembers before which of its own it would have come, so that an
interrupted import knows where in the source to go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gato.episode import Episode

T = TypeVar("T")

MAX_SKIP = 100_000  # each is named in the manifest


class BadRow(ValueError):
    """A bad row that is not to be skipped, or one too many."""


@dataclass
class LeftOut:
    """Counts what an import leaves out, with an example of each kind, and names the bad rows that it skips.

    - `skip`: how many bad rows may be; the first one is refused where this is 0.
    - `counts`, `examples`: by what it is, such as `rows without text`.
    - `rows`, `episodes`: the bad ones so far, as messages with file, place and reason.

    **Raises:** `ValueError` for a `skip` out of 0 to `MAX_SKIP`.
    """

    skip: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    rows: dict[str, None] = field(default_factory=dict)  # ordered, and each once
    episodes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.skip <= MAX_SKIP:
            raise ValueError(f"--skip is {self.skip}, expected 0 to {MAX_SKIP} bad rows")

    def count(self, what: str, example: object, number: int = 1) -> None:
        """What needs no permission, in the pass that finds it first. `example`: its file and place."""
        if number:
            self.counts[what] += number
            self.examples.setdefault(what, str(example))

    def row(self, error: ValueError) -> None:
        """A row that is bad as it stands, so that none of its episodes was counted; both passes may name it.

        **Raises:** `BadRow` if no further one may be skipped.
        """
        if str(error) not in self.rows:
            self._admit(error)
            self.rows[str(error)] = None

    @contextmanager
    def one_row(self) -> Iterator[None]:
        """Makes a bad row of a `ValueError` inside. **Raises:** `BadRow` if no further one may be skipped."""
        try:
            yield
        except BadRow:
            raise
        except ValueError as error:
            self.row(error)

    def episode(self, error: ValueError) -> None:
        """An episode that was counted and cannot be made. **Raises:** `BadRow` if no further one may be skipped."""
        self._admit(error)
        self.episodes.append(str(error))

    def made(self, rows: Iterable[T], make: Callable[[T], Episode]) -> Iterator[Episode]:
        """The episode of every row; those that cannot be made are skipped, as far as they may be."""
        for row in rows:
            try:
                episode = make(row)
            except BadRow:
                raise
            except ValueError as error:
                self.episode(error)
            else:
                yield episode

    def resume(self, notes: Mapping[str, Any]) -> None:
        """Takes over what an earlier import counted while it was reading; `notes`: of the manifest's provenance."""
        for what, number in notes.get("left_out", {}).items() if isinstance(notes.get("left_out"), dict) else ():
            self.counts[what] = max(self.counts[what], number)
            self.examples.setdefault(what, notes.get("left_out_examples", {}).get(what, "an earlier one"))

    def notes(self) -> dict[str, Any]:
        """For the manifest's provenance."""
        return {"left_out": dict(self.counts)} | ({"left_out_examples": dict(self.examples)} if self.examples else {})

    def lines(self) -> list[str]:
        """For the user: a line for each kind."""
        return [f"left out: {count} {what}, such as {self.examples[what]}" for what, count in self.counts.items()]

    def summary(self) -> str:
        """All of it in one line, for the refusal of a source of which nothing is left."""
        skipped = [f"skipped: {len(self.rows)} bad rows, such as {next(iter(self.rows))}"] if self.rows else []
        return "; ".join([*self.lines(), *skipped]) or "nothing was left out"

    def _admit(self, error: ValueError) -> None:
        bad = len(self.rows) + len(self.episodes)
        if bad < self.skip:
            return
        if self.skip == 0:
            raise BadRow(f"{error} (or leave out up to N bad rows with --skip N)") from None
        raise BadRow(f"{bad + 1} rows are bad, but --skip allows {self.skip}; the last one: {error}") from None
