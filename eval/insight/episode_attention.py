"""Where a model looks while it acts: its attention over past timesteps, and over the patches of the picture before it.

An action's first token is predicted from the separator, its others from the action tokens before them. Their attention
is averaged per timestep and summed over the tokens of each timestep that is looked at. As for captions (`attention.py`),
attention is where information is read, not why an action was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from gato.agent import Agent
from gato.batch import ACTION_LOCAL, Kind, TokenSequence, collate
from gato.episode import Episode
from gato.spec import PATCH_SIZE, Modality

from .attention import CELL, CaptionAttention, draw_maps, recorded, write_drawing

MAX_TOKENS = 512  # all layers' weights over them are held at once


@dataclass(frozen=True)
class EpisodeAttention:
    """- `timesteps` (layers, heads, T, T): how much of the attention of the row's action falls on the column's timestep; rows add up to 1.
    - `patches`: the last acting timestep's picture with the attention of its action on each patch; `None` without a single picture.
    """

    timesteps: np.ndarray
    patches: CaptionAttention | None


def episode_attention(agent: Agent, episode: Episode) -> EpisodeAttention:
    """The attention of an episode's actions, from its first timestep as far as the context and `MAX_TOKENS` reach.

    **Raises:** `ValueError` if not even one action fits.
    """
    tokens = agent.tokenizer.encode(episode.window(0, MAX_TOKENS)).cut(min(agent.model.config.context_length, MAX_TOKENS))
    actions = np.flatnonzero(tokens.local_position == ACTION_LOCAL)
    if not len(actions):
        raise ValueError(
            f"there is no action within the first {len(tokens)} tokens of this episode of '{episode.task.name}', so no attention"
        )
    queries, acting = tokens.position[actions] - 1, tokens.timestep[actions]  # predicted from the position before its own
    batch = collate([tokens], len(tokens), agent.tokenizer.vocabulary.pad).to(agent.model.device)
    with torch.inference_mode(), recorded(agent.model) as layers:
        agent.model(**batch.inputs(), use_cache=False, logits_to_keep=1)
    weights = np.stack([layer[0][:, queries].float().cpu().numpy() for layer in layers])  # (layers, H, queries, L)
    steps = int(acting.max()) + 1
    of_query = (acting == np.arange(steps)[:, None]) / np.maximum(np.bincount(acting, minlength=steps), 1)[:, None]  # (T, queries)
    firsts = np.diff(tokens.position, prepend=-1) > 0  # of the tokens that share a position
    of_key = tokens.timestep[firsts][:, None] == np.arange(steps)  # (L, T)
    found = np.einsum("tq,lhqk,ks->lhts", of_query, weights, of_key)
    order = [agent.tokenizer.patch_order(episode.task, f) for f in episode.task.observations if f.modality is Modality.IMAGE]
    return EpisodeAttention(found, _patches(episode, tokens, steps - 1, order, np.einsum("q,lhqk->lhk", of_query[-1], weights)))


def _patches(
    episode: Episode, tokens: TokenSequence, step: int, orders: Sequence[np.ndarray], weights: np.ndarray
) -> CaptionAttention | None:
    """`orders`: the raster numbers of each picture's patches, as their tokens stand; those that share a position share its weight."""
    images = [f for f in episode.task.observations if f.modality is Modality.IMAGE]
    if len(images) != 1:
        return None
    here = tokens.position[(tokens.kind == Kind.PATCH) & (tokens.timestep == step)]
    rows, columns = (n // PATCH_SIZE for n in images[0].patched_size)
    here = here[np.argsort(orders[0])]
    picture = np.asarray(episode.observations[images[0].name][step])
    return CaptionAttention(picture, f"timestep {step}", rearrange(weights[..., here], "l h (r c) -> l h r c", r=rows, c=columns))


def draw_timesteps(found: EpisodeAttention) -> Any:
    """A PIL image: a row per layer, a column per head; in each map a row per acting timestep, a column per timestep looked at."""
    from PIL import Image

    layers, heads = found.timesteps.shape[:2]
    sheet = Image.new("RGB", (heads * (CELL + 4) - 4, layers * (CELL + 4) - 4), "white")
    for i in range(layers):
        for j in range(heads):
            light = np.sqrt(found.timesteps[i, j] / max(float(found.timesteps[i, j].max()), 1e-12))  # so that small shares show
            cell = Image.fromarray((255 * light).astype(np.uint8)).resize((CELL, CELL), Image.Resampling.NEAREST)
            sheet.paste(cell.convert("RGB"), (j * (CELL + 4), i * (CELL + 4)))
    return sheet


def write_episode_attention(found: EpisodeAttention, name: str, out: Path) -> Path:
    """The maps over timesteps, and on a page those over patches, too; see `write_drawing`."""
    about = (
        f"A row per layer, a column per head. In each map a row is an action of timesteps 0 to {found.timesteps.shape[2] - 1}, a column a "
        "timestep that it looks at; brightness is the square root of the share, scaled to the map's largest."
    )
    title, drawn = f"Attention over timesteps: {name}", draw_timesteps(found)
    parts = [{"title": title, "about": about, "label": "attention over timesteps", "image": drawn}]
    if found.patches is not None:
        title = f"Over the patches of the last, {found.patches.caption}"
        parts.append({"title": title, "about": "", "label": "attention over patches", "image": draw_maps(found.patches)})
    return write_drawing(out, "attention", parts)
