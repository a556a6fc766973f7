"""What a model's inner states have in common: snippets of all sources as points, coloured by domain.

As in the paper's appendix: mean-pooled activations of 128-token snippets, the 50 strongest principal components,
then t-SNE. The figure beside the picture is the k-nearest-neighbour domain purity, in the full activations: how many of a
snippet's nearest ones are of its own domain. An untrained model of the same shape is the control, since
inputs of one domain are alike to begin with.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gato.agent import Agent
from gato.model import Gato
from gato.page import section, write_page

from ..data.mixture import Mixture
from .score import mean_interval

SNIPPET = 128  # tokens
ROWS_AT_ONCE = 16
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")


@dataclass(frozen=True)
class Embeddings:
    """- `domains` (N,) names; `points` (N, 2); `method`: how the points were placed.
    - `purity`, `untrained`: mean, low, high; `chance`: of a snippet drawn at random.
    - `layer`: whose output was pooled, counted from 1; `neighbours`: k.
    """

    domains: np.ndarray
    points: np.ndarray
    method: str
    purity: tuple[float, float, float]
    untrained: tuple[float, float, float]
    chance: float
    layer: int
    neighbours: int


def embeddings(agent: Agent, mixture: Mixture, per_source: int = 50, layer: int | None = None, neighbours: int = 10) -> Embeddings:
    """
    **Arguments:** `mixture`: of rows of 128 tokens; `per_source`: snippets of each source; `layer`: by default the middle one.

    **Raises:** `ValueError` for a layer that the model does not have, or too few snippets for the neighbours.
    """
    num_layers = agent.model.config.num_layers
    layer = max(1, num_layers // 2) if layer is None else layer
    if not 1 <= layer <= num_layers:
        raise ValueError(f"the model has layers 1 to {num_layers}, there is no {layer}")
    if not 1 <= neighbours < per_source * len(mixture.sources):
        raise ValueError(f"{neighbours} neighbours are asked for among {per_source * len(mixture.sources)} snippets; draw more")
    rows = [mixture.row(0, i, source) for source in range(len(mixture.sources)) for i in range(per_source)]
    domains = np.array([mixture.sources[row.source].name.split("/")[0] for row in rows])
    trained = pooled(agent.model, mixture, rows, layer)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blank = Gato(agent.model.config).to(agent.model.device).eval()
    fresh = pooled(blank, mixture, rows, layer)
    points, method = place(trained)
    counts = np.unique(domains, return_counts=True)[1]
    chance = float((counts * (counts - 1)).sum() / (len(rows) * (len(rows) - 1)))
    of = [mean_interval(purity(x, domains, neighbours)) for x in (trained, fresh)]
    return Embeddings(domains, points, method, of[0], of[1], chance, layer, neighbours)


def pooled(model: Gato, mixture: Mixture, rows: list[Any], layer: int) -> np.ndarray:
    """(N, width) float64: a layer's output, averaged over the tokens of each row that are no padding."""
    kept: list[torch.Tensor] = []
    hook = model.transformer.layers[layer - 1].register_forward_hook(lambda module, inputs, output: kept.append(output))
    found = []
    try:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            batch = mixture.collate(rows[start : start + ROWS_AT_ONCE]).to(model.device)
            with torch.inference_mode():
                model(
                    input_ids=batch.ids, local_positions=batch.local_position, pixel_values=batch.patches,
                    patch_boxes=batch.patch_boxes, document_ids=batch.document, use_cache=False, logits_to_keep=1,
                )  # fmt: skip
            real = (batch.document >= 0).double()[..., None]
            found.append(((kept.pop().double() * real).sum(dim=1) / real.sum(dim=1)).cpu().numpy())
    finally:
        hook.remove()
    return np.concatenate(found)


def purity(x: np.ndarray, domains: np.ndarray, neighbours: int) -> np.ndarray:
    """(N,) share of each row's nearest other rows (Euclidean) that are of its own domain."""
    squares = (x**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * x @ x.T
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :neighbours]
    return (domains[nearest] == domains[:, None]).mean(axis=1)


def place(x: np.ndarray) -> tuple[np.ndarray, str]:
    """(N, 2) points and the method's name: t-SNE of 50 principal components where scikit-learn is installed, else two components."""
    centred = x - x.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    components = u * s
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return components[:, :2], "two principal components (t-SNE needs scikit-learn: pip install 'opengato[metrics]')"
    perplexity = min(30.0, (len(x) - 1) / 3)
    return TSNE(perplexity=perplexity, random_state=0, init="pca").fit_transform(components[:, :50]), "t-SNE of 50 principal components"


def write_embeddings(found: Embeddings, name: str, out: Path) -> Path:
    """The points as one self-contained page."""
    low, high = found.points.min(axis=0), found.points.max(axis=0)
    places = 2 + 96 * (found.points - low) / np.maximum(high - low, 1e-12)
    names = list(dict.fromkeys(found.domains.tolist()))
    colour = {n: COLOURS[i % len(COLOURS)] for i, n in enumerate(names)}
    dots = "".join(
        f'<circle cx="{x:.2f}" cy="{y:.2f}" r="0.8" fill="{colour[d]}"><title>{escape(d)}</title></circle>'
        for (x, y), d in zip(places, found.domains.tolist(), strict=True)
    )
    legend = " ".join(f'<span style="color:{colour[n]}">&#9679;</span> {escape(n)}' for n in names)
    lines = [
        f"{len(found.domains)} snippets of {SNIPPET} tokens, the output of layer {found.layer} averaged over each; {found.method}.",
        purity_line(found),
    ]
    chart = f'<svg viewBox="0 0 100 100" role="img" aria-label="snippets by domain" style="width:min(100%,42rem)">{dots}</svg>'
    return write_page(out, name, [section("Snippets by domain", *(f"<p>{escape(x)}</p>" for x in lines), f"<p>{legend}</p>", chart)])


def purity_line(found: Embeddings) -> str:
    shown = "{:.1%} [{:.1%}, {:.1%}]"
    return (
        f"of the {found.neighbours} nearest snippets {shown.format(*found.purity)} are of the same domain; "
        f"untrained {shown.format(*found.untrained)}, chance {found.chance:.1%}"
    )
