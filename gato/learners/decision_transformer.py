"""Decision Transformer (Chen et al. 2021): actions as the continuation of returns-to-go, states and
earlier actions.

    R_0  s_0  a_0   R_1  s_1  a_1   ...        R_t is the return that is still to come, R_t+1 = R_t - r_t
     |    |    |     |    |    |
     +----+----+-- embedding of the timestep added, layer norm, causal GPT-2 blocks without positions of their own
          |               |
         a_0             a_1                   the action is read at its state's place

Without returns (`condition: none`) the sequence is s_0 a_0 s_1 a_1 ...: behaviour cloning by the
same network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gato.learners.trajectory import TrajectoryBatch, TrajectoryStatistics
from gato.spec import Modality, TaskSpec

from .decision_config import DecisionConfig
from .fields import ActionHead, FieldEmbedding, action_scale
from .network import layer_groups

DEVIATION = 0.02  # of the initial weights, GPT-2's


class Block(nn.Module):
    """A layer of GPT-2: pre-norm attention and feed-forward network. Names are GPT-2's."""

    def __init__(self, config: DecisionConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = config.feed_forward or 4 * width
        self.c_fc, self.c_out = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = config.activation

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, L, width) -> (B, L, width); `mask` (B, 1, L, L): True where a query may see a key."""
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=self.dropout if self.training else 0.0)
        x = x + self._dropped(self.c_proj(attended.transpose(1, 2).flatten(-2)))
        hidden = self.c_fc(self.ln_2(x))
        hidden = (
            hidden.relu() if self.activation == "relu" else F.gelu(hidden, approximate="tanh" if self.activation == "gelu_new" else "none")
        )
        return x + self._dropped(self.c_out(hidden))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class DecisionTransformer(nn.Module):
    """The network of one task.

    **Arguments:** `statistics`: how observations and returns are scaled; `num_timesteps`: of the
    table of timesteps.

    **Raises:** `ValueError` for a task with text, or with nothing to see.
    """

    def __init__(self, task: TaskSpec, config: DecisionConfig, statistics: TrajectoryStatistics, num_timesteps: int) -> None:
        super().__init__()
        check_task(task)
        self.task, self.config, self.statistics, self.num_timesteps = (task, config, statistics, num_timesteps)
        width = config.width
        self.embed_timestep = nn.Embedding(num_timesteps, width)
        self.embed_return = nn.Linear(1, width) if config.is_conditioned else None
        self.embed_state = FieldEmbedding(task.observations, width, statistics.mean, statistics.spread)
        self.embed_action = FieldEmbedding(task.actions, width, *action_scale(task.actions))
        self.embed_ln = nn.LayerNorm(width)
        blocks = [Block(config) for _ in range(config.num_layers)]
        self.layers = nn.ModuleList(blocks)
        self.ln_f = nn.LayerNorm(width)
        self.predict_action = ActionHead(task.actions, width)
        self.apply(_initialise)
        for block in blocks:  # GPT-2's: what is added to the residual stream shrinks with the depth
            for linear in (block.c_proj, block.c_out):
                nn.init.normal_(linear.weight, std=DEVIATION / math.sqrt(2 * config.num_layers))

    def forward(
        self,
        observations: Mapping[str, Tensor],
        actions: Mapping[str, Tensor],
        returns_to_go: Tensor,
        timesteps: Tensor,
        is_padding: Tensor,
    ) -> list[Tensor]:
        """As in `TrajectoryBatch` -> what `ActionHead` says at every state's place, (B, T, ...) per
        action field.

        The last action of a window is not looked at by anything: its values do not matter.
        """
        time = self.embed_timestep(timesteps)
        tokens = [self.embed_state(observations) + time, self.embed_action(actions) + time]
        if self.embed_return is not None:
            scaled = (returns_to_go / self.statistics.return_scale)[..., None].to(time.dtype)
            tokens.insert(0, self.embed_return(scaled) + time)
        per_timestep = len(tokens)
        x = F.dropout(self.embed_ln(torch.stack(tokens, dim=2).flatten(1, 2)), self.config.dropout, self.training)
        mask = attention_mask(is_padding.repeat_interleave(per_timestep, dim=1))
        for layer in self.layers:
            x = layer(x, mask)
        states = self.ln_f(x).unflatten(1, (-1, per_timestep))[:, :, per_timestep - 2]
        return self.predict_action(states)


class DecisionLearner(nn.Module):
    """The model with its loss: squared errors of continuous actions, cross-entropy of discrete
    ones."""

    def __init__(self, model: DecisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TrajectoryBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """
        **Returns:** the batch's share of the global loss (sum over timesteps and fields over
        `batch.denominator`), and sums: `loss_by_action` and `hits` (fields,): how often the
        likeliest discrete value was the recorded one; `targets` (1,): timesteps.
        """
        with _drawing_from(batch, self.training and self.model.config.dropout > 0):
            outputs = self.model(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps, batch.is_padding)
        is_real = ~batch.is_padding
        losses = torch.stack([
            torch.where(is_real, loss.float(), 0.0).sum() for loss in self.model.predict_action.losses(outputs, batch.actions)
        ])  # fmt: skip
        sums = {"loss_by_action": losses.detach(), "hits": self._hits(outputs, batch, is_real), "targets": is_real.sum()[None].float()}
        return losses.sum() / batch.denominator, sums

    @torch.no_grad()
    def _hits(self, outputs: list[Tensor], batch: TrajectoryBatch, is_real: Tensor) -> Tensor:
        counts = []
        for f, output in zip(self.model.task.actions, outputs, strict=True):
            if f.modality is not Modality.DISCRETE:
                counts.append(output.new_zeros(()))
                continue
            low = torch.from_numpy(f.bounds[0].astype("int64")).to(output.device)
            chosen = output.argmax(dim=-1).unflatten(-1, f.shape) if f.shape else output.argmax(dim=-1)[..., 0]
            is_hit = (chosen + low == batch.actions[f.name]).flatten(2).all(dim=-1) if f.shape else chosen + low == batch.actions[f.name]
            counts.append((is_hit & is_real).sum())
        return torch.stack([count.float() for count in counts])

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """Matrices of the layers (marked `hidden`) and of the linear embeddings are decayed; tables, norms and biases are not."""
        tables = {id(m.weight) for m in self.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
        return layer_groups(self, weight_decay, lambda _, parameter: parameter.ndim >= 2 and id(parameter) not in tables)

    def report(self, sums: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
        """For the metrics: loss per timestep of each action field, and the share of right choices
        of the discrete ones."""
        count = max(1.0, sums["targets"][0])
        fields = self.model.task.actions
        found = {"loss_by_action": {f.name: loss / count for f, loss in zip(fields, sums["loss_by_action"], strict=True)}}
        if hits := {f.name: n / count for f, n in zip(fields, sums["hits"], strict=True) if f.modality is Modality.DISCRETE}:
            found["accuracy"] = hits
        return found

    def flops(self, tokens: int, targets: int) -> None:
        """Nobody has counted them."""


def check_task(task: TaskSpec) -> None:
    """**Raises:** `ValueError` for what this learner cannot see or do."""
    if not task.is_control:
        raise ValueError(f"task '{task.name}' is no control task, but a Decision Transformer learns to act; give a store of one")
    if texts := [f.name for f in task.fields if f.modality is Modality.TEXT]:
        raise ValueError(
            f"task '{task.name}' has the text '{texts[0]}', which a Decision Transformer does not read; "
            "choose a task of numbers and pictures, or learner gato"
        )
    if not any(f.size for f in task.observations):
        raise ValueError(f"task '{task.name}' has no observation, so there is nothing to act on")


def attention_mask(is_padding: Tensor) -> Tensor:
    """(B, L) -> (B, 1, L, L): every place sees itself and what is no padding before it."""
    length = is_padding.shape[1]
    ones = torch.ones(length, length, dtype=torch.bool, device=is_padding.device)
    return ((ones.tril() & ~is_padding[:, None, :]) | torch.eye(length, dtype=torch.bool, device=ones.device))[:, None]


@contextmanager
def _drawing_from(batch: TrajectoryBatch, is_drawn: bool) -> Iterator[None]:
    """Dropout follows from the batch's seed, so that a resumed run draws what it would have
    drawn."""
    if not is_drawn:
        yield
        return
    device = batch.is_padding.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(batch.seed)
        yield


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding, nn.EmbeddingBag)):
        nn.init.normal_(module.weight, std=DEVIATION)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
