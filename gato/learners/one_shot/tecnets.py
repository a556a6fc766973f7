"""TecNets (James et al. 2018): a demonstration's first and last picture become a vector, and one control network obeys it.

    s = normed(mean over the support of normed(f(first, last)))      the task's embedding, its "sentence"
    action = g(what is seen now, s)

Both networks are trained together. Of T tasks, the embedding of a query demonstration is to be nearer to its own task's sentence
than to another's, by a margin of the cosine; both sides are normalised and have gradients. The control network clones timesteps
of support and query demonstrations, told of the task by the support alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gato.episode import Episode
from gato.spec import TaskSpec

from ..actions import ActionVectors
from ..features import Features
from ..network import decay_groups
from .config import TecNetsConfig
from .demonstrated import DemonstratedBatch, DemonstrationInputs, Seen, first_half
from .network import SeenNetwork

EMBEDDED = ("demonstrations", "untrained")  # sentences that a network makes of what is shown
FIRST = "first"  # the one that it makes of an episode's own first observation


class TecNet(nn.Module):
    """What acts: the embedding network, the control network, and the scales of what is no picture.

    **Arguments:** `num_numbers`: how many the environment says of a task, for the control that is told them.
    """

    def __init__(self, task: TaskSpec, features: Features, num_outputs: int, config: TecNetsConfig, num_numbers: int = 0) -> None:
        super().__init__()
        self.config = config
        told = {"none": 0, "numbers": num_numbers}.get(config.sentence, config.embedding)
        num_features = len(features.mean)
        looked_at = {FIRST: 1}.get(config.sentence, 2)
        embeds = config.sentence in (*EMBEDDED, FIRST)
        self.embedding = SeenNetwork(task, num_features, config.embedding, config, together=looked_at) if embeds else None
        if self.embedding is not None and config.sentence == "untrained":
            self.embedding.requires_grad_(False)
        self.control = SeenNetwork(task, num_features, num_outputs, config, told)
        self.features = nn.Module()
        for name in ("mean", "scale"):
            self.features.register_buffer(name, torch.from_numpy(getattr(features, name)))

    @property
    def needs_demonstration(self) -> bool:
        return self.config.sentence not in ("none", FIRST)

    @property
    def sees_first(self) -> bool:
        """Whether an episode's own first observation says what the task is."""
        return self.config.sentence == FIRST

    def embed(self, ends: Seen) -> Tensor:
        """(N, E) of unit length, for N demonstrations, or for first observations where the model `sees_first`."""
        assert self.embedding is not None
        return normed(self.embedding(ends))

    @torch.no_grad()
    def remember(self, inputs: DemonstrationInputs, demonstrations: Sequence[Episode]) -> dict[str, Tensor]:
        """What is kept of a task: its sentence (E,); nothing where demonstrations tell nothing."""
        if not self.needs_demonstration:
            return {}
        ends = inputs.ends(demonstrations)
        if self.config.sentence == "numbers":
            return {"sentence": torch.tensor([float(x) for x in demonstrations[0].parameters["numbers"]])}
        device = self.features.get_buffer("mean").device
        return {"sentence": sentence_of(self.embed(ends.each(lambda tensor: tensor.to(device))))}

    def outputs(self, seen: Seen, memory: Mapping[str, Tensor]) -> Tensor:
        """(N, A) for N timesteps of one task, of which this is kept."""
        told = memory["sentence"].expand(len(seen), -1) if memory else None
        return self.control(seen, told)


def normed(vectors: Tensor) -> Tensor:
    """Of unit length along the last axis."""
    return F.normalize(vectors, dim=-1)


def sentence_of(embedded: Tensor) -> Tensor:
    """(..., K, E) embedded demonstrations of one task -> (..., E), of unit length."""
    return normed(embedded.mean(dim=-2))


def embedding_loss(sentences: Tensor, queries: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """How far the queries' embeddings are from being told apart.

    **Arguments:** `sentences` (R, T, E) and `queries` (R, T, Q, E), of unit length: tasks are compared within their row.

    **Returns:** per row (R,): the mean over pairs of tasks i != j and queries q of max(0, margin - s_j.q_j + s_i.q_j), and the share
    of queries that are nearest to their own task's sentence.
    """
    cosine = torch.einsum("rie,rjqe->rijq", sentences, queries)
    own = torch.einsum("rje,rjqe->rjq", sentences, queries)
    other = ~torch.eye(sentences.shape[1], dtype=torch.bool, device=cosine.device)
    hinge = (margin - own[:, None] + cosine).clamp(min=0) * other[None, :, :, None]
    pairs = int(other.sum()) * queries.shape[2]
    nearest = cosine.argmax(dim=1) == torch.arange(cosine.shape[1], device=cosine.device)[None, :, None]
    return hinge.sum(dim=(1, 2, 3)) / pairs, nearest.float().mean(dim=(1, 2))


class TecNetsLearner(nn.Module):
    """**Arguments:** `vectors`: what the outputs mean; `source`: the store's name in metrics."""

    def __init__(self, model: TecNet, vectors: ActionVectors, source: str) -> None:
        super().__init__()
        self.model, self.vectors, self.source, self.config = model, vectors, source, model.config

    def forward(self, batch: DemonstratedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """
        **Returns:** the batch's share of the global loss, and sums over tasks: `targets`, and those of the losses of `embedding`,
        `support` and `query` and of `nearest`, the share of queries nearest to their own task.
        """
        config, num_tasks = self.config, batch.num_rows * batch.num_tasks
        told, embedding, nearest = self._told(batch)
        if told is not None:
            told = told.repeat_interleave(len(batch.played) // num_tasks, dim=0)
        found = self.model.control(batch.seen, told).float().unflatten(0, (num_tasks, -1))
        played, split = batch.played.unflatten(0, (num_tasks, -1)), batch.num_support
        losses = [self.vectors.loss(found[:, s].flatten(0, 1), played[:, s].flatten(0, 1)) for s in (slice(split), slice(split, None))]
        parts = {"embedding": embedding, "support": losses[0], "query": losses[1], "nearest": nearest}
        weights = {"embedding": config.embedding_weight, "support": config.support_weight, "query": config.query_weight}
        total: Any = sum(weight * parts[name] for name, weight in weights.items())
        sums = {name: (value.detach() * num_tasks).reshape(1) for name, value in parts.items()}
        return total * num_tasks / batch.denominator, sums | {"targets": torch.full((1,), float(num_tasks), device=found.device)}

    def _told(self, batch: DemonstratedBatch) -> tuple[Tensor | None, Tensor, Tensor]:
        """What is told of the tasks (R * T, E), the loss of the embedding and its accuracy."""
        config, nothing = self.config, torch.zeros((), device=batch.played.device)
        if config.sentence == "none":
            return None, nothing, nothing
        if config.sentence == "numbers":
            return batch.numbers, nothing, nothing
        ends = first_half(batch.ends) if self.model.sees_first else batch.ends
        embedded = self.model.embed(ends).unflatten(0, (batch.num_rows, batch.num_tasks, -1))
        support, query = embedded[:, :, : config.support], embedded[:, :, config.support :]
        sentences = sentence_of(support)
        loss, nearest = embedding_loss(sentences, query, config.margin)
        return sentences.flatten(0, 1), nothing if config.sentence == "untrained" else loss.mean(), nearest.mean()

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Matrices and filters are decayed; biases and norms are not."""
        return decay_groups(self.parameters(), weight_decay)

    def report(self, sums: Mapping[str, list[float]]) -> dict[str, Any]:
        means = {name: values[0] / sums["targets"][0] for name, values in sums.items() if name != "targets"}
        nearest = means.pop("nearest")
        return {"loss_by_part": means, "nearest": nearest}

    def flops(self, tokens: int, targets: int) -> float | None:
        return None
