"""What `Gato.forward` is given: whether its tensors fit together, said in one line where they do not."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gato.spec import PATCH_SIZE


def check_inputs(
    ids: Tensor, image_id: int, mask: Tensor | None, patches: Tensor | None, boxes: Tensor | None, patch_index: Tensor | None,
    labels: Tensor | None, cache: Cache | None,
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
