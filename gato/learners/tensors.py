"""What several tensors that go together have in common: a learner's batch, for example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Tensors:
    """A dataclass of tensors, tuples and mappings of them, and other `Tensors`; fields that are none of these stay as they are."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with every tensor changed, but for a batch's `denominator`."""
        return replace(self, **{f.name: _changed(getattr(self, f.name), change) for f in fields(self) if f.name != "denominator"})

    def to(self, device: Any) -> Self:
        """From pinned memory nobody waits for the copy."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """In memory that a GPU can copy from by itself; what torch's loader calls."""
        return self.each(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class TensorBatch(Tensors):
    """A learner's `Batch`, whose class adds the fields, `denominator` among them."""

    def with_denominator(self, denominator: float | Tensor) -> Self:
        return replace(self, denominator=denominator)  # type: ignore[call-arg]


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensors):
        return value.each(change)
    if isinstance(value, Mapping):
        return {name: _changed(part, change) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_changed(part, change) for part in value)
    return change(value) if hasattr(value, "pin_memory") else value
