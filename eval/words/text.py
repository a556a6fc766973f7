"""How well a model predicts text: bits per byte, which compares across tokenizers where loss per token does not."""

from __future__ import annotations

from typing import Any

import numpy as np

from gato.agent import Agent
from gato.data.store import Store
from gato.layers.inputs import find_targets
from gato.words import text_of

ROWS_AT_ONCE = 8
RESAMPLES = 9999


def text_results(agent: Agent, store: Store, documents: int = 200, seed: int = 0) -> dict[str, Any]:
    """Bits per byte over at most `documents` documents, drawn without replacement.

    Every token after the first is predicted from at least half a context, where its document has as much
    before it. A document's first token has nothing before it and costs as much as any of the text pieces would.

    **Returns:** `store`, `documents`, `bytes`, and `bits_per_byte` with a 95 % bootstrap interval over documents.

    **Raises:** `ValueError` if the store is not of documents, or the checkpoint knows no text.
    """
    if any(task.observations for task in store.tasks) or any(task.is_control for task in store.tasks):
        raise ValueError(f"store {store.path} holds {', '.join(t.name for t in store.tasks)}; bits per byte need a store of documents")
    if agent.tokenizer.text is None:
        raise ValueError("this checkpoint was trained without text")
    chosen = np.sort(np.random.default_rng(seed).permutation(store.num_episodes)[:documents])
    texts = [text_of(store.episode(int(i))) for i in chosen]
    bits = np.array([document_bits(agent, text) for text in texts])
    sizes = np.array([len(text.encode()) for text in texts], np.float64)
    low, high = ratio_interval(bits, sizes)
    figures = {"mean": float(bits.sum() / sizes.sum()), "low": low, "high": high}
    return {"store": store.path.name, "documents": len(texts), "bytes": int(sizes.sum()), "bits_per_byte": figures}


def document_bits(agent: Agent, text: str) -> float:
    """The bits that the model needs for one document and its end."""
    import torch

    assert agent.tokenizer.text is not None
    ids = agent.tokenizer.text.encode_documents([text])[0]
    context = agent.model.config.context_length
    rows = windows(len(ids), context)
    total = np.log2(agent.tokenizer.vocabulary.text_size)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = rows[start : start + ROWS_AT_ONCE]
        length = max(last - first for first, _, last in batch)
        inputs = torch.full((len(batch), length), agent.tokenizer.vocabulary.pad)
        labels = torch.full((len(batch), length), -100)
        for row, (first, scored, last) in enumerate(batch):
            inputs[row, : last - first] = torch.tensor(ids[first:last])
            labels[row, scored - first : last - first] = torch.tensor(ids[scored:last])
        with torch.inference_mode():
            shown, targets = inputs.to(agent.model.device), labels.to(agent.model.device)
            losses = agent.model(input_ids=shown, labels=targets, target_index=find_targets(targets)).token_losses
        total += float(losses.double().sum()) / np.log(2)
    return float(total)


def windows(length: int, context: int) -> list[tuple[int, int, int]]:
    """`(first, scored, last)`: tokens first to last are shown, scored to last are measured; each after the first exactly once."""
    rows: list[tuple[int, int, int]] = []
    scored = 1
    while scored < length:
        first = max(0, scored - context // 2) if rows else 0
        last = min(length, first + context)
        rows.append((first, scored, last))
        scored = last
    return rows


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float]:
    """A 95 % percentile bootstrap interval of sum / sum over pairs (n,); NaN for a single pair."""
    if len(numerators) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(0).multinomial(len(numerators), np.full(len(numerators), 1 / len(numerators)), RESAMPLES)
    low, high = np.quantile((drawn @ numerators) / (drawn @ denominators), [0.025, 0.975])
    return float(low), float(high)
