"""Where snippets of different domains lie in a model: `gato plot --embeddings` (extra `embeddings`).

A snippet is a row of 128 tokens, as training draws them; its embedding is the mean over its tokens of what a layer
gives. The map is PCA, then t-SNE, which draws clusters even where there are few, so the figure that counts is taken
before it: how many of a snippet's nearest neighbours are of its own domain. Domains differ in their very ids, so an
untrained model of the same architecture separates them to some degree; it stands beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gato.agent import Agent
from gato.data.mixture import Mixture, Row
from gato.data.selection import DataConfig, SourceConfig
from gato.disk import read_json, write_json
from gato.eval.score import mean_interval
from gato.model import Gato

SNIPPET = 128  # tokens
NEIGHBOURS = 10
COMPONENTS = 50
ROWS_AT_ONCE = 16
EXTRA = "the map needs scikit-learn and matplotlib: pip install 'opengato[embeddings]'"


def embedding_results(agent: Agent, sources: Mapping[str, SourceConfig], snippets: int = 100, seed: int = 0) -> dict[str, Any]:
    """Embeds `snippets` rows of every source by the model and by an untrained one.

    **Returns:** `domains` (names of the sources), `snippets`, `chance` and for `trained` and `untrained` a list over the
    layers: `purity` (mean, low, high: a 95 % bootstrap interval over snippets), `by_domain`, and `points` (N, D) float32,
    with the snippets of the first domain first. Neighbours that share an episode with a snippet do not count.

    **Raises:** `ValueError` for too few snippets or sources; `ImportError` with the pip line without scikit-learn.
    """
    if snippets < 2 or len(sources) < 2:
        raise ValueError(f"{snippets} snippets of {len(sources)} sources were asked for; neighbours need at least 2 of each")
    length = min(SNIPPET, agent.model.config.context_length)
    mixture = Mixture(DataConfig(sources=dict(sources), prompt_share=0.0), agent.tokenizer, length, seed)
    rows = [mixture.row(0, i, source) for source in range(len(sources)) for i in range(snippets)]
    domain = np.repeat(np.arange(len(sources)), snippets)
    related = _share_an_episode(rows)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = Gato(agent.model.config).eval()
    untrained.to(agent.model.device)  # type: ignore[arg-type]  # transformers' annotation of it
    models = {"trained": agent.model, "untrained": untrained}
    found = {
        name: [_layer(points, domain, related, list(sources)) for points in embed(model, mixture, rows)] for name, model in models.items()
    }
    return {"domains": list(sources), "snippets": snippets, "tokens": length, "chance": (snippets - 1) / (len(rows) - 1), **found}


def embed(model: Gato, mixture: Mixture, rows: Sequence[Row]) -> np.ndarray:
    """(layers, N, width) float32: the mean of each layer's output over the tokens of each row."""
    pooled = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = mixture.collate(rows[start : start + ROWS_AT_ONCE]).to(model.device)
        is_token = (batch.document >= 0)[..., None]
        with torch.inference_mode(), _outputs(model) as layers:
            model(**batch.inputs(), use_cache=False, logits_to_keep=1)
        pooled.append(torch.stack([(out * is_token).sum(dim=1) / is_token.sum(dim=1) for out in layers]).float().cpu().numpy())
    return np.concatenate(pooled, axis=1)


def neighbour_purity(points: np.ndarray, domain: np.ndarray, excluded: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """(N,): the share of each point's nearest neighbours, by Euclidean distance, that are of its own domain.

    **Arguments:** `points` (N, D); `domain` (N,); `excluded` bool (N, N): pairs that are no neighbours, such as a point and itself.
    """
    squares = (points.astype(np.float64) ** 2).sum(axis=1)
    distance = squares[:, None] + squares - 2 * points.astype(np.float64) @ points.T.astype(np.float64)
    distance[excluded] = np.inf
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :neighbours]
    known = np.take_along_axis(~excluded, nearest, axis=1)  # of a snippet with few that may count, only those
    return ((domain[nearest] == domain[:, None]) & known).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def sources_of(checkpoint: Path, stores: Sequence[str] = ()) -> dict[str, SourceConfig]:
    """The sources that a checkpoint was trained on, or those named, as they are without augmentation.

    **Raises:** `ValueError` if none are named and the checkpoint does not say.
    """
    if stores:
        return {name: SourceConfig(store=name) if (Path(name) / "manifest.json").is_file() else SourceConfig() for name in stores}
    record = checkpoint / "run.json"
    if not record.is_file():
        raise ValueError(f"'{checkpoint}' has no run.json, which names its sources; name stores with --stores")
    data = read_json(record).get("data")
    sources: Any = data.get("sources") if isinstance(data, dict) else None
    try:
        return {name: SourceConfig(**(values | {"augment": False, "weight": 1.0})) for name, values in sources.items()}
    except (TypeError, AttributeError):
        raise ValueError(f"'{record}' is damaged: data.sources is not what names sources; restore it, or name stores by --stores") from None


def write_embeddings(found: Mapping[str, Any], out: Path, layer: int | None = None) -> dict[str, Any]:
    """Draws a layer's map (by default the middle one's), trained beside untrained, and writes the figures beside it as JSON.

    **Returns:** the figures of all layers. **Raises:** `ValueError` if `out` is no .png or there is no such layer.
    """
    count = len(found["trained"])
    layer = (count - 1) // 2 if layer is None else layer
    if out.suffix != ".png":
        raise ValueError(f"'{out}' is no .png; name one")
    if not 0 <= layer < count:
        raise ValueError(f"there is no layer {layer}; the model has layers 0 to {count - 1}")
    figures = {key: value for key, value in found.items() if key not in ("trained", "untrained")} | {"layer": layer}
    for name in ("trained", "untrained"):
        figures[name] = [{key: value for key, value in one.items() if key != "points"} for one in found[name]]
    out.parent.mkdir(parents=True, exist_ok=True)
    _draw(found, layer, out)
    write_json(out.with_suffix(".json"), figures)
    return figures


def _draw(found: Mapping[str, Any], layer: int, out: Path) -> None:
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
        from sklearn.manifold import TSNE
    except ImportError:
        raise ImportError(EXTRA) from None
    domains, snippets = found["domains"], found["snippets"]
    figure = Figure(figsize=(11, 6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("trained", "untrained"), strict=True):
        one = found[name][layer]
        perplexity = min(30.0, (len(one["points"]) - 1) / 3)
        flat = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(_components(one["points"]))
        for i, domain in enumerate(domains):
            part = flat[i * snippets : (i + 1) * snippets]
            axes.scatter(part[:, 0], part[:, 1], s=12, color=colormaps["tab20"](i % 20), label=domain if name == "trained" else None)
        purity = one["purity"]
        axes.set_title(f"{name}: purity {purity['mean']:.1%} [{purity['low']:.1%}, {purity['high']:.1%}]")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(
        f"{snippets} snippets of {found['tokens']} tokens a source, layer {layer}: PCA, then t-SNE (chance {found['chance']:.1%})"
    )
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(out, dpi=90)


def _layer(points: np.ndarray, domain: np.ndarray, related: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    purity = neighbour_purity(_components(points), domain, related)
    by_domain = {name: float(purity[domain == i].mean()) for i, name in enumerate(names)}
    return {"purity": dict(zip(("mean", "low", "high"), mean_interval(purity), strict=True)), "by_domain": by_domain, "points": points}


def _components(points: np.ndarray) -> np.ndarray:
    """The first principal components, at most `COMPONENTS`."""
    try:
        from sklearn.decomposition import PCA
    except ImportError:
        raise ImportError(EXTRA) from None
    return PCA(min(COMPONENTS, *points.shape), svd_solver="full").fit_transform(points)


def _share_an_episode(rows: Sequence[Row]) -> np.ndarray:
    """bool (N, N): which rows hold parts of the same episode, each with itself included."""
    episodes = [{(row.source, piece.episode) for piece in row.pieces} for row in rows]
    return np.array([[not a.isdisjoint(b) for b in episodes] for a in episodes])


@contextmanager
def _outputs(model: Gato) -> Any:
    """Fills a list with the output (B, L, D) of every block while the model runs."""
    outputs: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, inputs, out: outputs.append(out)) for layer in model.transformer.layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
