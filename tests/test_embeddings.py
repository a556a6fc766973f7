"""Embeddings of snippets: neighbours counted by hand, means over tokens, and the map of a tiny checkpoint."""

import json

import numpy as np
import pytest
import torch

from gato.agent import Agent
from gato.cli import main
from gato.data.mixture import Mixture
from gato.data.selection import DataConfig, SourceConfig
from gato.data.store import StoreWriter
from gato.episode import Episode
from gato.eval.insight.embeddings import embed, embedding_results, neighbour_purity, sources_of
from gato.words import document_task

NOTHING = np.eye(4, dtype=bool)


@pytest.fixture
def agent(make_gato, tokenizer, corridor) -> Agent:
    return Agent(make_gato().float(), tokenizer, {corridor.name: corridor, "text": document_task("text")})


@pytest.fixture
def sources(tmp_path, corridor, walk) -> dict[str, SourceConfig]:
    """Twelve walks, and twelve texts."""
    with StoreWriter(tmp_path / "walks", [corridor]) as writer:
        for i in range(12):
            writer.append(walk([0, i % 2, 1, 0], [1, 1, i % 2, 0], terminated=True))
    task = document_task("text")
    with StoreWriter(tmp_path / "texts", [task]) as writer:
        for i in range(12):
            writer.append(Episode(task, {}, {"text": np.array([f"the red ball {i}"], object)}, np.zeros(1, np.float32), terminated=True))
    return {name: SourceConfig(store=str(tmp_path / name)) for name in ("walks", "texts")}


def test_neighbours_on_a_line_are_counted_as_by_hand():
    points, domain = np.array([[0.0], [1.0], [3.0], [4.0]]), np.array([0, 0, 0, 1])
    assert neighbour_purity(points, domain, NOTHING, neighbours=1).tolist() == [1, 1, 0, 0]
    assert neighbour_purity(points, domain, NOTHING, neighbours=2).tolist() == [1, 1, 0.5, 0]


def test_an_excluded_pair_is_no_neighbour():
    points, domain = np.array([[0.0], [1.0], [3.0], [4.0]]), np.array([0, 0, 0, 1])
    apart = NOTHING.copy()
    apart[2, 3] = True
    assert neighbour_purity(points, domain, apart, neighbours=1).tolist() == [1, 1, 1, 0]
    assert neighbour_purity(points, domain, np.ones((4, 4), bool)).tolist() == [0, 0, 0, 0]


def test_an_embedding_is_the_mean_over_the_tokens_and_not_over_the_padding(agent, sources):
    mixture = Mixture(DataConfig(sources=sources, prompt_share=0.0), agent.tokenizer, 64, 0)
    rows = [mixture.row(0, i, source) for source in (0, 1) for i in range(2)]
    (row,) = rows[3:]
    seen = []
    hook = agent.model.transformer.layers[1].register_forward_hook(lambda _, inputs, out: seen.append(out))
    ids, document = (torch.from_numpy(v.astype(np.int64))[None] for v in (row.tokens.ids, row.tokens.document))
    with torch.no_grad():
        agent.model(input_ids=ids, document_ids=document, use_cache=False)
    hook.remove()
    np.testing.assert_allclose(embed(agent.model, mixture, rows)[1, 3], seen[0][0].mean(dim=0), atol=1e-4)  # float32


def test_walks_and_texts_are_told_apart_and_both_models_stand_beside_each_other(agent, sources):
    pytest.importorskip("sklearn", reason="principal components need scikit-learn: pip install 'opengato[embeddings]'")
    found = embedding_results(agent, sources, snippets=8, seed=1)
    assert found["domains"] == ["walks", "texts"] and found["chance"] == 7 / 15
    for name in ("trained", "untrained"):
        assert [one["points"].shape for one in found[name]] == [(16, 32)] * 2
        assert all(0 <= one["purity"]["low"] <= one["purity"]["high"] <= 1 for one in found[name])
    assert not np.allclose(found["trained"][0]["points"], found["untrained"][0]["points"])
    with pytest.raises(ValueError, match="1 snippets of 2 sources"):
        embedding_results(agent, sources, snippets=1)


def test_the_command_draws_a_map_and_writes_the_figures(agent, sources, tmp_path, capsys):
    for package in ("sklearn", "matplotlib"):
        pytest.importorskip(package, reason="the map needs it: pip install 'opengato[embeddings]'")
    agent.save(tmp_path / "final")
    stores = [str(source.store) for source in sources.values()]
    arguments = ["plot", "--embeddings", str(tmp_path / "final"), "--snippets", "6", "--stores", *stores]
    assert main([*arguments, "--out", str(tmp_path / "map.png")]) == 0
    assert "chance 45.5%" in capsys.readouterr().out and (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "map.json").read_text())["layer"] == 0
    assert main([*arguments, "--layer", "2"]) == 2
    assert capsys.readouterr().err == "gato: there is no layer 2; the model has layers 0 to 1\n"


def test_sources_are_those_of_the_run_without_augmentation(tmp_path):
    with pytest.raises(ValueError, match="has no run.json, which names its sources"):
        sources_of(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"data": {"sources": {"a": {"weight": 3.0, "augment": True, "part": "train"}}}}))
    assert sources_of(tmp_path) == {"a": SourceConfig(weight=1.0, part="train")}
