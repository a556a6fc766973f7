"""What is seen in a timestep -> one vector: numbers, choices, grids of cells, pictures and instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gato.learners.fields import Eye
from gato.spec import FieldSpec, Modality, TaskSpec

PAD, UNKNOWN, FIRST_WORD = 0, 1, 2
MAX_WORDS = 64  # of a text


class Words:
    """Texts -> ids of their words. **Arguments:** `known`: the words that have an id, in its order."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = tuple(known)
        self._ids = {word: i for i, word in enumerate(self.known, FIRST_WORD)}

    @classmethod
    def of(cls, texts: Sequence[str]) -> Words:
        """All words of some texts, sorted."""
        return cls(sorted({word for text in texts for word in _split(text)}))

    def ids(self, texts: Sequence[str] | np.ndarray) -> np.ndarray:
        """(n, `MAX_WORDS`) int16, padded behind. **Raises:** `ValueError` for a text that is longer."""
        found = np.zeros((len(texts), MAX_WORDS), np.int16)
        for row, text in enumerate(texts):
            words = _split(text)
            if len(words) > MAX_WORDS:
                raise ValueError(f"the text '{text[:40]}...' has {len(words)} words, at most {MAX_WORDS} are read")
            found[row, : len(words)] = [self._ids.get(word, UNKNOWN) for word in words]
        return found

    def unknown(self, text: str) -> list[str]:
        return [word for word in _split(text) if word not in self._ids]


class ObservationEncoder(nn.Module):
    """Values of a task's observations, (n, *shape) each -> (n, `width`).

    An instruction scales and shifts the features of grids (FiLM, Perez et al. 2018) and stands beside the others.

    **Arguments:** `channels`: of the convolutions over a grid of cells (rows, columns) or (rows, columns, kinds); `words`: known in texts.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, task: TaskSpec, width: int, channels: int, words: Words) -> None:
        super().__init__()
        self.words = words
        self.texts = [f.name for f in task.observations if f.modality is Modality.TEXT]
        self.numbers = [f for f in task.observations if f.modality is Modality.CONTINUOUS and f.size]
        choices = [f for f in task.observations if f.modality is Modality.DISCRETE and f.size]
        self.grids = [f for f in choices if len(f.shape) in (2, 3)]
        self.choices = [f for f in choices if len(f.shape) not in (2, 3)]
        self.pictures = [f.name for f in task.observations if f.modality is Modality.IMAGE]
        size = sum(f.size for f in self.numbers)
        for name, value in (("mean", 0.0), ("spread", 1.0)):
            self.register_buffer(name, torch.full((size,), value))
        self.linear = nn.Sequential(nn.Linear(size, width), nn.Tanh()) if size else None
        self.tables = nn.ModuleList(Table(f, width) for f in self.choices)
        self.grid_encoders = nn.ModuleList(GridEncoder(f, width, channels, width if self.texts else 0) for f in self.grids)
        self.eyes = nn.ModuleList(Eye(width) for _ in self.pictures)
        self.readers = nn.ModuleList(TextEncoder(FIRST_WORD + len(words.known), width) for _ in self.texts)
        num_parts = bool(size) + len(choices) + len(self.pictures) + len(self.texts)
        if not num_parts:
            raise ValueError(f"task '{task.name}' shows nothing that a network could look at; choose another task")
        self.join = nn.Sequential(nn.Linear(num_parts * width, width), nn.Tanh()) if num_parts > 1 else nn.Identity()

    def arrays(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Raw values as arrays of numbers, which is what `forward` takes: texts as ids of words."""
        return {name: self.words.ids(values) if name in self.texts else values for name, values in observation.items()}

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        read = [reader(values[name]) for name, reader in zip(self.texts, self.readers, strict=True)]
        instruction = torch.stack(read).sum(dim=0) if read else None
        parts = list(read)
        if self.linear is not None:
            flat = torch.cat([values[f.name].float().flatten(1) if f.shape else values[f.name].float()[:, None] for f in self.numbers], 1)
            parts.append(self.linear(((flat - self.mean) / self.spread).clamp(-10, 10) if self.is_normalised else flat))
        parts += [table(values[f.name]) for f, table in zip(self.choices, self.tables, strict=True)]
        parts += [grid(values[f.name], instruction) for f, grid in zip(self.grids, self.grid_encoders, strict=True)]
        parts += [torch.tanh(eye(values[name])) for name, eye in zip(self.pictures, self.eyes, strict=True)]
        return self.join(torch.cat(parts, dim=-1))

    is_normalised = False


class Table(nn.Module):
    """Discrete elements (n, *shape) -> (n, width): every value of every element has a vector, which are added up."""

    offset: Tensor

    def __init__(self, field: FieldSpec, width: int) -> None:
        super().__init__()
        low, high = (np.array(b).reshape(-1).astype(np.int64) for b in field.bounds)
        counts = high - low + 1
        self.register_buffer("offset", torch.from_numpy(np.cumsum(counts) - counts - low), persistent=False)
        self.bag = nn.EmbeddingBag(int(counts.sum()), width, mode="sum")

    def forward(self, values: Tensor) -> Tensor:
        return torch.tanh(self.bag(values.reshape(len(values), -1).long() + self.offset))


class GridEncoder(nn.Module):
    """Cells (n, rows, columns) or (n, rows, columns, kinds) -> (n, width): vectors of the cells' values, two convolutions.

    **Arguments:** `told`: width of an instruction that scales and shifts the features between them; 0: there is none.
    """

    offset: Tensor

    def __init__(self, field: FieldSpec, width: int, channels: int, told: int) -> None:
        super().__init__()
        low, high = field.bounds
        self.low, values = int(low.min()), int(high.max() - low.min()) + 1
        kinds = field.shape[2] if len(field.shape) == 3 else 1
        self.register_buffer("offset", torch.arange(kinds) * values - self.low, persistent=False)
        self.cells = nn.EmbeddingBag(kinds * values, channels, mode="sum")
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(told, 2 * channels) if told else None
        self.out = nn.Linear(channels * field.shape[0] * field.shape[1], width)

    def forward(self, values: Tensor, instruction: Tensor | None) -> Tensor:
        n, rows, columns = values.shape[:3]
        ids = values.reshape(n * rows * columns, -1).long() + self.offset
        x = self.cells(ids).reshape(n, rows, columns, -1).permute(0, 3, 1, 2).contiguous()
        x = torch.relu(self.first(x))
        x = self.second(x)
        if self.film is not None and instruction is not None:
            scale, shift = self.film(instruction)[:, :, None, None].chunk(2, dim=1)
            x = x * (1 + scale) + shift
        return torch.tanh(self.out(torch.relu(x).flatten(1)))


class TextEncoder(nn.Module):
    """Ids of words (n, L) -> (n, width): the last state of a GRU; every text is read once, however often it stands in the batch."""

    def __init__(self, num_words: int, width: int) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(num_words, width), nn.GRU(width, width, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        texts, which = torch.unique(ids.long(), dim=0, return_inverse=True)
        lengths = (texts != PAD).sum(dim=1).clamp(min=1)
        states, _ = self.gru(self.embedding(texts[:, : int(lengths.max())]))
        return states[torch.arange(len(texts), device=ids.device), lengths - 1][which]


def _split(text: str) -> list[str]:
    return text.lower().replace(",", " , ").replace(".", " . ").split()
