"""What `Gato.forward` is given: whether its tensors fit together, said in one line where they do not; and what follows from them."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gato.spec import PATCH_SIZE


def refuse_unsupported(embeds: Tensor | None, wants_attentions: bool) -> None:
    """**Raises:** `ValueError` for what transformers' models may take or give, and this one does not."""
    if embeds is not None:
        raise ValueError("inputs_embeds are not taken, since ids say where pictures stand; give input_ids")
    if wants_attentions:
        raise ValueError("attentions are not kept by the fused kernels; gato.eval.insight.attention.recorded computes them")


def check_inputs(
    ids: Tensor, image_id: int, mask: Tensor | None, patches: Tensor | None, boxes: Tensor | None, patch_index: Tensor | None,
    labels: Tensor | None, cache: Cache | None, documents: Tensor | None = None,
) -> None:  # fmt: skip
    """Slots are counted only where nobody says where they are, since that makes a GPU wait.

    **Raises:** `ValueError` for arguments of `Gato.forward` that do not fit together.
    """
    if ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"input_ids are whole numbers of shape (rows, tokens), found {ids.dtype} {tuple(ids.shape)}")
    if labels is not None and labels.shape != ids.shape:
        raise ValueError(f"labels have the shape {tuple(labels.shape)}, input_ids {tuple(ids.shape)}; give one per token, -100 for none")
    if cache is not None and cache.is_compileable:
        raise ValueError("a static cache has places for tokens that are not there yet; use transformers' DynamicCache")
    past = cache.get_seq_length() if cache is not None else 0
    if documents is not None and mask is not None:
        raise ValueError("document_ids say what is padding (-1), so that attention_mask would not be looked at; leave it out")
    if documents is not None and past:
        raise ValueError(f"document_ids are of whole documents, but the cache holds {past} tokens of others; leave out one of the two")
    if mask is not None and mask.shape != (len(ids), past + ids.shape[1]):
        expected = f"{(len(ids), past + ids.shape[1])}, a 1 for each token" + (" and for each one in the cache" if past else "")
        raise ValueError(f"attention_mask has the shape {tuple(mask.shape)}, expected {expected}")
    if (patches is None) != (boxes is None):
        raise ValueError("pixel_values and patch_boxes belong together; give both as the processor made them, or neither")
    if patches is not None and boxes is not None:
        if patches.dtype != torch.uint8 or patches.shape[1:] != (PATCH_SIZE, PATCH_SIZE, 3):
            raise ValueError(
                f"pixel_values are uint8 patches (N, 16, 16, 3), found {patches.dtype} {tuple(patches.shape)}; use our processor"
            )
        if boxes.shape != (len(patches), 4):
            raise ValueError(f"patch_boxes have the shape {tuple(boxes.shape)}, expected {(len(patches), 4)}: one per patch")
    if patch_index is None:
        slots, given = int((ids == image_id).sum()), 0 if patches is None else len(patches)
        if slots != given:
            raise ValueError(
                f"{given} patches were given for {slots} image slots in input_ids; give the pictures that the processor laid out"
            )


def find_targets(labels: Tensor) -> Tensor:
    """(K,): the flat places of the labels that are targets; the first token of a row is predicted by nothing."""
    following = (labels[:, 1:] >= 0).flatten().nonzero()[:, 0]
    return following + torch.div(following, labels.shape[1] - 1, rounding_mode="floor") + 1


def attention_layout(
    ids: Tensor, past: int, attention_mask: Tensor | None, document_ids: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The mask (B, 1, L, past + L) and the positions within each document (B, L).

    `None` twice where each row is one document from its first token on, without padding: plain causal attention.
    """
    batch, length = ids.shape
    if document_ids is not None:
        order = torch.arange(length, device=ids.device)
        same = document_ids[:, :, None] == document_ids[:, None, :]
        mask = (same & (order[:, None] >= order))[:, None]
        starts = torch.ones_like(document_ids, dtype=torch.bool)
        starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
        return mask, order - torch.where(starts, order, 0).cummax(dim=1).values
    is_whole = attention_mask is None or bool(attention_mask.all())
    if is_whole and (past == 0 or length == 1):  # a single query, as `generate` gives them, looks at all there is
        return None, None
    if attention_mask is None:
        attention_mask = ids.new_ones(batch, past + length)
    queries = torch.arange(past, past + length, device=ids.device)
    keys = torch.arange(past + length, device=ids.device)
    visible = queries[:, None] >= keys
    itself = queries[:, None] == keys  # a padded query looks at itself, so that no row of the softmax is empty
    mask = (visible & attention_mask[:, None, :].bool()) | itself
    positions = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, past:]
    return mask[:, None], positions
