"""The mixture: what a row holds follows from (seed, step, row) alone, in the promised proportions."""

import hashlib
import pickle
from collections.abc import Iterable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from gato.batch import Kind, TokenBatch, join
from gato.data.mixture import DataConfig, Mixture, SourceConfig
from gato.data.store import Store, StoreWriter
from gato.data.text import document_task
from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec

PICTURES = TaskSpec(
    "toy/captions",
    (
        FieldSpec("image", Modality.IMAGE, "observation", (16, 32, 3), "uint8", path=("image",)),
        FieldSpec("caption", Modality.TEXT, "action", dtype="str", path=("caption",)),
    ),
)


def write(folder, episodes: list[Episode], tasks: list[TaskSpec] | None = None) -> str:
    with StoreWriter(folder, tasks or [episodes[0].task]) as writer:
        for episode in episodes:
            writer.append(episode)
    return str(folder)


@pytest.fixture(scope="module")
def stores(tmp_path_factory, walk, drive) -> dict[str, str]:
    """12 corridor walks of 1 to 40 timesteps (3 tokens each), 5 robot drives, 6 captions, 4 documents."""
    folder, rng = tmp_path_factory.mktemp("stores"), np.random.default_rng(0)
    walks = [walk(rng.integers(0, 2, n).tolist(), rng.integers(0, 2, n).tolist()) for n in [1, 2, 3, 5, 8, 13, 21, 34, 40, 40, 40, 40]]
    drives = [drive(n, goal, seed=n) for n, goal in [(2, "go"), (5, "a box"), (9, "go to the red ball"), (20, "go"), (30, "the key")]]
    words = ["a cat", "two small dogs", "a red ball on a blue box", "a key", "the mat", "go"]
    captions = [
        Episode(PICTURES, {"image": np.full((1, 16, 32, 3), i, np.uint8)}, {"caption": np.array([w], object)}, np.zeros(1, np.float32))
        for i, w in enumerate(words)
    ]
    task = document_task("text/toy")
    texts = ["a cat", "the small dog", "go to the red ball " * 40, "open the door"]
    documents = [Episode(task, {}, {"text": np.array([t], object)}, np.zeros(1, np.float32)) for t in texts]
    return {
        "walks": write(folder / "walks", walks), "drives": write(folder / "drives", drives),
        "captions": write(folder / "captions", captions), "documents": write(folder / "documents", documents),
    }  # fmt: skip


@pytest.fixture(scope="module")
def mix(stores, tokenizer):
    """mix(walks=3, documents=1, seed=7): a mixture of these sources and weights."""

    def make(seed: int = 7, context_length: int = 64, prompt_share: float = 0.25, loss_weight: float = 1.0, **weights) -> Mixture:
        weights = weights or {name: 1.0 for name in stores}
        sources = {name: SourceConfig(weight, stores[name], loss_weight) for name, weight in weights.items()}
        return Mixture(DataConfig(sources, prompt_share), tokenizer, context_length, seed, num_depth_draws=4)

    return make


def assert_same(a, b) -> None:
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, f.name


def digest(batches: Iterable[TokenBatch]) -> str:
    """SHA-256 of every array of the batches, in order."""
    total = hashlib.sha256()
    for batch in batches:
        for f in fields(batch):
            value = getattr(batch, f.name)
            total.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    return total.hexdigest()


# -- reproducible ----------------------------------------------------------------------------------


def test_rows_are_those_of_the_first_release(stores, tokenizer):
    """Whoever changes a draw changes every run: this hash may only change with the version of the data order."""
    sources = {name: SourceConfig(1.0, path, augment=name == "captions") for name, path in stores.items()}
    mixture = Mixture(DataConfig(sources, prompt_share=0.5), tokenizer, 64, seed=7, num_depth_draws=4)
    batches = [mixture.batch(step, range(16)) for step in (0, 1, 10**6)]
    assert set(torch.cat([b.sources for b in batches]).tolist()) == {0, 1, 2, 3}
    assert digest(batches) == "ae26cc5756c9c49d2cf53d66a23532c74f24bf5944cdf1a7cf57c6e8e5d4d773"


def test_a_batch_follows_from_seed_step_and_rows(mix):
    batch = mix().batch(3, range(8))
    assert_same(batch, mix().batch(3, range(8)))
    for other in (mix().batch(4, range(8)), mix(seed=8).batch(3, range(8)), mix().batch(3, range(8, 16))):
        assert not torch.equal(other.ids, batch.ids)
        assert not torch.equal(other.depth_noise, batch.depth_noise)


def test_the_past_does_not_matter(mix):
    used = mix()
    for step in range(5):
        used.batch(step, range(4))
    assert_same(used.batch(9, range(4)), mix().batch(9, range(4)))


def test_rows_may_be_grouped_in_any_way(mix):
    mixture = mix()
    whole, parts = mixture.batch(3, range(6)), [mixture.batch(3, rows) for rows in ([0], [1, 2, 3], [4, 5])]
    for name in ("ids", "labels", "document", "local_position", "weights", "sources", "depth_noise"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(p, name) for p in parts])), name
    with_pictures = [p for p in parts if (p.kind == Kind.PATCH).any()]
    for name in ("patches", "patch_boxes"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(p, name) for p in with_pictures])), name
    assert whole.denominator == sum(p.denominator for p in parts)


def test_a_mixture_may_be_sent_to_another_process(mix):
    mixture = mix()
    mixture.batch(0, range(2))
    assert_same(pickle.loads(pickle.dumps(mixture)).batch(3, range(4)), mixture.batch(3, range(4)))


def test_workers_make_the_same_batches(mix):
    mixture = mix()
    alone = list(mixture.loader(range(3), 4, 2))
    mixture.config = replace(mixture.config, workers=1)
    for mine, theirs in zip(alone, mixture.loader(range(3), 4, 2), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert_same(a, b)


def test_a_loader_goes_on_where_another_stopped(mix):
    mixture = mix()
    whole, rest = list(mixture.loader(range(0, 5), 4, 4)), list(mixture.loader(range(3, 5), 4, 4))
    for a, b in zip(whole[3:], rest, strict=True):
        assert_same(a[0], b[0])


def test_micro_batches_share_the_denominator_of_their_step(mix):
    mixture = mix(walks=1, documents=1, loss_weight=0.5)
    (batches,) = mixture.loader(range(1), 5, 2)
    assert [len(b) for b in batches] == [2, 2, 1]
    targets = sum(int((b.labels >= 0).sum()) for b in batches)
    assert [b.denominator for b in batches] == [targets * 0.5] * 3


# -- proportions -----------------------------------------------------------------------------------


def test_weights_are_the_expected_shares_of_rows(mix):
    mixture = mix(walks=3, captions=1, context_length=8)
    drawn = [mixture.row(0, r).source for r in range(4000)]
    assert np.mean(drawn) == pytest.approx(0.25, abs=0.03)  # four standard errors


def test_a_quarter_of_control_rows_has_a_prompt_and_half_of_these_are_ends(mix):
    mixture = mix(walks=1, drives=1, context_length=48)
    roles = [mixture.row(step, row).pieces[0].role for step in range(100) for row in range(100)]
    prompts = [role for role in roles if role != "window"]
    assert len(prompts) / len(roles) == pytest.approx(0.25, abs=0.01)
    assert np.mean([role == "prompt from the end" for role in prompts]) == pytest.approx(0.5, abs=0.04)  # four standard errors


def test_text_and_captions_have_no_prompts(mix):
    mixture = mix(captions=1, documents=1)
    assert all(p.role == "window" for r in range(200) for p in mixture.row(0, r).pieces)


def test_no_timestep_of_an_episode_is_rarer_than_those_in_its_middle(mix):
    mixture = mix(walks=1, prompt_share=0, context_length=30)  # 10 timesteps; one episode of length 40 has the number 8
    counts = np.zeros(40)
    for r in range(4000):
        for piece in mixture.row(0, r).pieces[:1]:
            if piece.episode == 8:
                counts[piece.start : piece.stop] += 1
    middle = counts[15:25].mean()
    assert counts.min() > 0.75 * middle and counts.max() < 2.25 * middle  # about 130 each: three standard errors and more


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["walks", "drives", "captions", "documents"])
def test_a_row_never_exceeds_the_context(mix, source):
    mixture = mix(**{source: 1})
    assert max(len(mixture.row(0, r).tokens) for r in range(200)) <= 64


def test_windows_start_with_a_whole_observation(mix):
    mixture = mix(drives=1, prompt_share=0.5)
    for r in range(200):
        tokens = mixture.row(0, r).tokens
        starts = np.flatnonzero(np.diff(tokens.timestep, prepend=-1) != 0)
        assert (tokens.local_position[starts] == 0).all() and (tokens.kind[starts] == Kind.PATCH).all()


def test_a_prompt_is_whole_timesteps_of_another_episode_in_at_most_half_the_context(mix, stores, tokenizer):
    mixture, store = mix(drives=1, prompt_share=1.0), Store(stores["drives"])
    for r in range(200):
        row = mixture.row(0, r)
        prompt, window = (tokenizer.encode(store.episode(p.episode, p.start, p.stop)) for p in row.pieces)
        assert row.pieces[0].episode != row.pieces[1].episode
        assert 0 < len(prompt) <= 32
        expected = join([prompt, window], same_document=True).cut(64)
        for name in ("ids", "kind", "local_position", "document", "is_target", "patches"):
            np.testing.assert_array_equal(getattr(row.tokens, name), getattr(expected, name))


def test_prompts_are_of_the_rows_own_task(tmp_path, tokenizer, walk, corridor):
    """Twenty tasks in one store: the prompt comes from the other episode of the same one."""
    tasks = [replace(corridor, name=f"toy/corridor-{i}") for i in range(20)]
    episodes = [replace(walk([0, 1] * 4, [1, 1] * 4), task=t) for t in tasks for _ in range(2)]
    source = SourceConfig(1.0, write(tmp_path / "many", episodes, tasks))
    mixture = Mixture(DataConfig({"many": source}, prompt_share=1.0), tokenizer, 24, seed=0)
    for r in range(100):
        prompt, window = mixture.row(0, r).pieces
        assert (prompt.episode // 2, prompt.episode) == (window.episode // 2, window.episode ^ 1)


def test_a_task_of_one_episode_is_its_own_prompt(tmp_path, tokenizer, walk):
    source = SourceConfig(1.0, write(tmp_path / "one", [walk([0, 1] * 20, [1, 1] * 20)]))
    mixture = Mixture(DataConfig({"one": source}, prompt_share=1.0), tokenizer, 24, seed=0)
    assert [p.episode for p in mixture.row(0, 0).pieces] == [0, 0]


def test_short_episodes_are_packed_as_documents_of_their_own(mix):
    mixture = mix(captions=1)
    row = mixture.row(0, 0)
    assert len(row.pieces) > 2
    documents = np.unique(row.tokens.document)
    assert documents.tolist() == list(range(len(row.pieces)))
    for d in documents:
        assert (row.tokens.kind[row.tokens.document == d][:3] == [Kind.PATCH, Kind.PATCH, Kind.SEPARATOR]).all()


def test_a_packed_row_of_captions_wastes_little(mix):
    batch = mix(captions=1, context_length=256).batch(0, range(20))
    assert batch.is_packed
    assert batch.num_tokens / batch.ids.numel() > 0.9


def test_text_rows_are_full_and_all_targets(mix):
    batch = mix(documents=1).batch(0, range(20))
    assert batch.num_tokens == batch.ids.numel()
    firsts = torch.ones_like(batch.document, dtype=torch.bool)
    firsts[:, 1:] = batch.document[:, 1:] != batch.document[:, :-1]
    assert torch.equal(batch.labels < 0, firsts)


def test_patch_positions_are_drawn_inside_their_boxes_anew_for_each_step(mix):
    mixture = mix(captions=1)
    a, b = (mixture.batch(step, [0]).patch_boxes for step in (0, 1))
    assert torch.equal(a[:, 0], a[:, 1]) and torch.equal(a[:, 2], a[:, 3])
    left, right = a[0::2, 2], a[1::2, 2]
    assert (left < 64).all() and (right >= 64).all() and (a < 128).all()
    assert len(a[:, 0].unique()) > 2 and not torch.equal(a[: len(b)], b[: len(a)])


def test_loss_weights_and_sources_travel_in_the_batch(mix, stores, tokenizer):
    config = DataConfig({"walks": SourceConfig(1, stores["walks"], 2.0), "captions": SourceConfig(1, stores["captions"], 0.25)})
    batch = Mixture(config, tokenizer, 64, seed=0).batch(0, range(16))
    assert set(batch.sources.tolist()) == {0, 1}
    assert batch.weights.tolist() == [(2.0, 0.25)[s] for s in batch.sources]
    assert batch.depth_noise is None


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [{}, {"walks": 0.0}, {"walks": 2.0, "captions": -1.0}])
def test_weights_without_sense_are_refused(stores, tokenizer, weights):
    config = DataConfig({name: SourceConfig(w, stores[name]) for name, w in weights.items()})
    with pytest.raises(ValueError, match="give at least one above zero and none below"):
        Mixture(config, tokenizer, 64, seed=0)


def test_an_empty_source_is_refused(tmp_path, tokenizer, corridor):
    with StoreWriter(tmp_path / "empty", [corridor]):
        pass
    with pytest.raises(ValueError, match="source 'empty' holds no episodes"):
        Mixture(DataConfig({"empty": SourceConfig(1, str(tmp_path / "empty"))}), tokenizer, 64, seed=0)


def test_a_missing_store_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="nowhere"):
        Mixture(DataConfig({"nowhere": SourceConfig(1, str(tmp_path / "nowhere"))}), tokenizer, 64, seed=0)
