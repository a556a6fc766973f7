"""Where a model looks while it writes a caption: its attention over the patches, by layer and head.

The fused kernels keep no weights, so each layer's are computed again from what went into it. A map shows the
mean over the tokens that were written, scaled to its own brightest patch; the share of attention that falls on
the picture at all stands beside it. Attention is where information is read, not why a word was chosen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from gato.agent import Agent
from gato.eval.film import png_base64
from gato.layers.transformer import Attention, AttentionContext, rotate
from gato.page import write_page
from gato.picture import as_picture, fitted_box, read_image
from gato.spec import PATCH_SIZE

CELL = 128  # pixels of one map's longer side


@dataclass(frozen=True)
class CaptionAttention:
    """- `picture` uint8 (rows, columns, 3); `caption`.
    - `maps` (layers, heads, patch rows, patch columns): mean attention of the written tokens on each patch; 0 on those that are padding.
    - `inside`: the rows and columns of `picture` that are no padding.
    """

    picture: np.ndarray
    caption: str
    maps: np.ndarray
    inside: tuple[slice, slice] = (slice(None), slice(None))

    @property
    def shares(self) -> np.ndarray:
        """(layers, heads): how much of the attention falls on the picture."""
        return self.maps.sum(axis=(2, 3))


def caption_attention(agent: Agent, image: Any, caption: str | None = None, question: str | None = None) -> CaptionAttention:
    """The attention of every token of a caption (or, with a `question`, of its answer), by default the model's own."""
    _, spec = agent.caption_task() if question is None else agent.question_task()
    if isinstance(image, (str, os.PathLike, bytes)):
        image = read_image(image if isinstance(image, bytes) else Path(image))
    shape = (image.height, image.width) if hasattr(image, "height") else np.asarray(image).shape[:2]
    picture = as_picture(image, spec)
    inside = fitted_box((shape[0], shape[1]), (picture.shape[0], picture.shape[1]))
    if caption is None:
        caption = agent.caption(picture) if question is None else agent.answer(picture, question)
    (prompt,) = agent.picture_prompts([picture], None if question is None else [question])
    assert agent.tokenizer.text is not None and prompt.patches is not None and prompt.boxes is not None
    ids = prompt.ids + agent.tokenizer.text.encode(caption)  # each token from the separator on predicts the next one
    inputs = {"pixel_values": prompt.patches, "patch_boxes": prompt.boxes.astype(np.int64)}
    with torch.inference_mode(), recorded(agent.model) as layers:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(v)).to(agent.model.device) for name, v in inputs.items()}
        agent.model(input_ids=torch.tensor([ids], device=agent.model.device), use_cache=False, **tensors)
    written = torch.stack(layers)[:, 0, :, len(prompt.ids) - 1 :, : len(prompt.patches)]  # (layers, H, written, patches)
    rows, columns = (n // PATCH_SIZE for n in spec.patched_size)
    maps = rearrange(written.mean(dim=2), "l h (r c) -> l h r c", r=rows, c=columns)
    seen = np.zeros((PATCH_SIZE * rows, PATCH_SIZE * columns))
    seen[inside] = 1
    is_picture = rearrange(seen, "(r x) (c y) -> r c (x y)", x=PATCH_SIZE, y=PATCH_SIZE).any(axis=2)
    return CaptionAttention(picture, caption, maps.float().cpu().numpy() * is_picture, inside)


@contextmanager
def recorded(model: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Fills a list with each layer's attention weights (B, H, L, L) while the model runs without a cache."""
    weights: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda layer, inputs: weights.append(attention_weights(layer, inputs[0], inputs[1])))
        for module in model.modules()
        if isinstance(module, Attention)
    ]
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()


def attention_weights(layer: Attention, hidden: Tensor, context: AttentionContext) -> Tensor:
    """(B, H, L, L): the softmax that `Attention.forward` leaves to the fused kernel."""
    q, k = (rearrange(p(hidden), "b l (h d) -> b h l d", h=layer.num_heads) for p in (layer.q_proj, layer.k_proj))
    if context.rotary is not None:
        q, k = rotate(q, *context.rotary), rotate(k, *context.rotary)
    mask = context.mask
    if layer.r_proj is not None:
        mask, q = layer.relative_mask(q, context), q + layer.content_bias
    scores = q @ k.transpose(-1, -2) * layer.head_width**-0.5
    if mask is None:
        length = hidden.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()
    scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1)


def write_attention(found: CaptionAttention, out: Path) -> Path:
    """All maps, a row per layer and a column per head; see `write_drawing`."""
    about = (
        "A row per layer, a column per head; each map is scaled to its own brightest patch. Below: the share of attention on the picture."
    )
    title = f"Attention while writing: {found.caption or '(nothing)'}"
    part = {"title": title, "about": about, "label": "attention over patches", "image": draw_maps(found)}
    return write_drawing(out, "attention", [part], shares=found.shares.tolist())


def check_drawing(out: Path) -> None:
    """**Raises:** `ValueError` for a file that is neither a picture nor a page."""
    if out.suffix not in (".png", ".html"):
        raise ValueError(f"'{out}' is neither .png nor .html; name one of these")


def write_drawing(out: Path, name: str, parts: Sequence[dict[str, Any]], **more: Any) -> Path:
    """The first part's image alone (.png), or a page of all parts and what is said of them (.html). **Raises:** see `check_drawing`."""
    check_drawing(out)
    if out.suffix == ".html":
        return write_page(out, "attention.html", name, parts=[part | {"image": png_base64(part["image"])} for part in parts], **more)
    out.parent.mkdir(parents=True, exist_ok=True)
    parts[0]["image"].save(out)
    return out


def draw_maps(found: CaptionAttention) -> Any:
    """A PIL image: the picture, and the picture under each map, dark where the model does not look."""
    from PIL import Image

    rows, columns = found.picture.shape[:2]
    scale = CELL / max(rows, columns)
    size = (round(columns * scale), round(rows * scale))  # PIL's (width, height)
    picture = np.asarray(Image.fromarray(found.picture).resize(size, Image.Resampling.NEAREST), np.float32)
    layers, heads = found.maps.shape[:2]
    sheet = Image.new("RGB", ((heads + 1) * (size[0] + 4) - 4, layers * (size[1] + 4) - 4), "white")
    sheet.paste(Image.fromarray(picture.astype(np.uint8)), (0, 0))
    for i in range(layers):
        for j in range(heads):
            here = found.maps[i, j] / max(float(found.maps[i, j].max()), 1e-12)
            light = np.asarray(Image.fromarray((255 * here).astype(np.uint8)).resize(size, Image.Resampling.NEAREST), np.float32) / 255
            shown = picture * (0.15 + 0.85 * light[..., None])
            sheet.paste(Image.fromarray(shown.astype(np.uint8)), ((j + 1) * (size[0] + 4), i * (size[1] + 4)))
    return sheet


def draw_overlay(found: CaptionAttention, size: int = 384) -> Any:
    """A PIL image, its longer side `size` pixels: the picture in grey, redder where all layers and heads together look more."""
    from PIL import Image

    rows, columns = found.picture.shape[:2]
    scale = size / max(rows, columns)
    shape = (round(columns * scale), round(rows * scale))  # PIL's (width, height)
    mean = found.maps.mean(axis=(0, 1))
    share = (mean - mean.min()) / max(float(np.ptp(mean)), 1e-12)
    heat = Image.fromarray((255 * share).astype(np.uint8)).resize((columns, rows), Image.Resampling.BILINEAR)
    shown = np.zeros((rows, columns), np.uint8)
    shown[found.inside] = np.asarray(heat)[found.inside]
    heat = Image.fromarray(shown).resize(shape, Image.Resampling.BILINEAR)
    picture = Image.fromarray(found.picture).resize(shape, Image.Resampling.BICUBIC)
    faded = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", shape, "white"), 0.3)
    return Image.composite(Image.new("RGB", shape, (214, 39, 40)), faded, heat.point(lambda v: int(0.7 * v)))
