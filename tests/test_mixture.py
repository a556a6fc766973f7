"""The mixture: what a row holds follows from (seed, step, row) alone, in the promised proportions."""

import hashlib
import os
import pickle
import signal
import sys
from collections.abc import Iterable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from gato.batch import Kind, TokenBatch, join
from gato.data.loading import rank_rows
from gato.data.mixture import Mixture, row_weights
from gato.data.selection import DataConfig, SourceConfig
from gato.data.source import episode_keys
from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer
from gato.words import document_task

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


# what of a batch follows from the rest of it
FOLLOWING = ("target_index", "patch_index", "first_patches", "patch_of", "numbers")


def digest(batches: Iterable[TokenBatch]) -> str:
    """SHA-256 of every array of the batches, in order; but for those that follow from others."""
    total = hashlib.sha256()
    for batch in batches:
        for f in (f for f in fields(batch) if f.name not in FOLLOWING):
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


@pytest.mark.parametrize("ranks", [1, 2, 7])
def test_ranks_share_the_rows_of_a_batch_in_order_and_evenly(ranks):
    parts = [rank_rows(16, rank, ranks) for rank in range(ranks)]
    assert [row for part in parts for row in part] == list(range(16))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_more_ranks_than_rows_are_refused():
    with pytest.raises(ValueError, match="rank 8 of 9 has no row of a batch of 8"):
        rank_rows(8, 8, 9)


def global_batches(mixture: Mixture, steps: range, ranks: int) -> Iterable[TokenBatch]:
    """Batches of 7 rows, put together from what the ranks' loaders give; of spare patches only that of a batch without pictures stays."""
    loaders = [mixture.loader(steps, 7, 7, rank, ranks) for rank in range(ranks)]
    for parts in zip(*loaders, strict=True):
        batches = [batch for part in parts for batch in part]
        pictured = [b for b in batches if (b.kind == Kind.PATCH).any()] or batches[:1]
        tensors = {
            f.name: torch.cat([getattr(b, f.name) for b in (pictured if f.name.startswith("patch") else batches)])
            for f in fields(TokenBatch)
            if isinstance(getattr(batches[0], f.name), torch.Tensor) and f.name not in ("first_patches", "patch_of")
        }  # fmt: skip
        denominator = sum(b.denominator for b in batches)
        yield TokenBatch(**tensors, denominator=denominator, is_packed=any(b.is_packed for b in batches))


def test_a_thousand_batches_are_the_same_for_any_ranks_and_workers_and_after_a_resume(mix):
    mixture = mix(walks=3, captions=1, documents=1, context_length=16)
    expected = digest(global_batches(mixture, range(1000), ranks=1))
    for ranks in (2, 4, 7):
        assert digest(global_batches(mixture, range(1000), ranks)) == expected, ranks
    mixture.config = replace(mixture.config, workers=4)
    halves = [*global_batches(mixture, range(300), ranks=1), *global_batches(mixture, range(300, 1000), ranks=1)]
    assert digest(halves) == expected


def test_step_a_million_costs_what_step_zero_costs(mix):
    """Counted in function calls, for 200 batches from each."""

    def calls(first: int) -> int:
        count = 0

        def profile(*_: object) -> None:
            nonlocal count
            count += 1

        mixture = mix(walks=1)
        loader = mixture.loader(range(first, first + 200), 2, 2)
        sys.setprofile(profile)
        try:
            assert sum(1 for _ in loader) == 200
        finally:
            sys.setprofile(None)
        return count

    calls(0)
    assert calls(10**6) == pytest.approx(calls(0), rel=0.1)


# -- workers ---------------------------------------------------------------------------------------


def children() -> list:
    """Our worker processes; the trackers and servers that Python starts beside processes stay by design."""
    import psutil

    return [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


@pytest.fixture
def working(mix) -> Mixture:
    """A mixture of small rows read by two processes."""
    mixture = mix(walks=1, context_length=24)
    mixture.config = replace(mixture.config, workers=2)
    return mixture


def test_a_killed_worker_is_named_and_nothing_hangs(working):
    loader = working.loader(range(10**6), 2, 2)
    next(loader)
    victim = children()[0].pid
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=rf"a data worker died \(process {victim}\) while update"):
        for _ in range(50):
            next(loader)
    assert children() == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the stall is a pipe that nobody writes to")
def test_a_stalled_worker_is_named(tmp_path, tokenizer):
    task = document_task("text/toy")
    folder = write(tmp_path / "words", [Episode(task, {}, {"text": np.array(["a cat"], object)}, np.zeros(1, np.float32))])
    mixture = Mixture(DataConfig({"words": SourceConfig(store=folder)}, workers=2), tokenizer, 24, seed=0)
    (tokens,) = (tmp_path / "words").glob("tokens-*.arrow")
    tokens.unlink()
    os.mkfifo(tokens)  # opening it waits for ever
    with pytest.raises(RuntimeError, match="data worker 0 of 2 gave no answer while update 0 was awaited"):
        next(mixture.loader(range(10), 2, 2, timeout=3))
    assert children() == []


def test_workers_use_one_thread_each_and_leave_with_their_loader(working):
    loader = working.loader(range(10**6), 2, 2)
    next(loader)
    assert len(children()) == 2
    # the main thread, and the one that hands batches over
    assert all(sum(t.user_time + t.system_time > 0.5 for t in p.threads()) <= 1 for p in children())
    del loader
    assert children() == []


def test_damage_that_a_worker_meets_is_one_line(working, tmp_path, walk, corridor):
    folder = tmp_path / "walks"
    write(folder, [walk([0, 1] * 9, [1, 1] * 9) for _ in range(4)])
    config = DataConfig({"walks": SourceConfig(1, str(folder))}, workers=1)
    mixture = Mixture(config, working.tokenizer, 24, seed=0)
    path = folder / "timesteps-00000.arrow"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ValueError, match=r"^data worker 0 of 1, update 0: .*timesteps-00000.arrow is not a readable Arrow file") as refused:
        next(mixture.loader(range(3), 2, 2))
    assert "\n" not in str(refused.value)


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


def test_sources_without_a_weight_have_one_or_what_the_temperature_says():
    sources = {"small": SourceConfig(), "large": SourceConfig(), "given": SourceConfig(weight=5)}
    sizes = {"small": 100, "large": 900, "given": 7}
    assert row_weights(DataConfig(sources), {}).tolist() == [1, 1, 5]
    assert row_weights(DataConfig(sources, temperature=1), sizes) == pytest.approx([0.2, 1.8, 5])
    assert row_weights(DataConfig(sources, temperature=2), sizes) == pytest.approx([0.5, 1.5, 5])  # roots: 10 and 30
    assert row_weights(DataConfig(sources, temperature=1e9), sizes) == pytest.approx([1, 1, 5])
    assert row_weights(DataConfig(sources, temperature=1e-3), sizes) == pytest.approx([0, 2, 5])


def test_a_temperature_weighs_sources_by_their_tokens(stores, tokenizer):
    """242 timesteps of 3 tokens against 6 captions of at least 4."""
    sources = {name: SourceConfig(store=stores[name]) for name in ("walks", "captions")}
    mixture = Mixture(DataConfig(sources, temperature=1), tokenizer, 64, seed=0)
    assert mixture.shares == pytest.approx(np.array([247 * 3, 6 * 4]) / (247 * 3 + 6 * 4))


# -- which episodes --------------------------------------------------------------------------------


def episodes_of(mixture: Mixture, rows: int = 300) -> set[int]:
    return {piece.episode for r in range(rows) for piece in mixture.row(0, r).pieces}


@pytest.fixture
def many(tmp_path, tokenizer, walk, corridor):
    """many(part="test"): a mixture of one source of 40 walks, the last ten of them noisy."""
    folder = write(tmp_path / "many", [walk([0, 1] * 4, [1, 1] * 4, behaviour="expert" if i < 30 else "noisy") for i in range(40)])

    def make(**options) -> Mixture:
        return Mixture(DataConfig({"many": SourceConfig(store=folder, **options)}, prompt_share=0.5), tokenizer, 24, seed=0)

    return make


def test_the_parts_of_a_store_are_disjoint_and_together_all_of_it(many):
    train, test = (episodes_of(many(part=part, test_share=0.3)) for part in ("train", "test"))
    assert train & test == set() and train | test == set(range(40))
    assert 6 <= len(test) <= 18  # 12 expected: two standard errors


def test_an_episode_keeps_its_part_when_others_are_appended():
    np.testing.assert_array_equal(episode_keys("toy/corridor", 100)[:40], episode_keys("toy/corridor", 40))
    assert not np.array_equal(episode_keys("toy/corridor", 40), episode_keys("toy/robot", 40))
    assert episode_keys("toy/corridor", 10**5).mean() == pytest.approx(0.5, abs=0.004)  # four standard errors


def test_a_larger_cap_keeps_the_episodes_of_a_smaller_one(many):
    few, more = episodes_of(many(max_episodes=3)), episodes_of(many(max_episodes=10))
    assert len(few) == 3 and len(more) == 10 and few < more
    assert episodes_of(many(max_episodes=1000)) == set(range(40))


def test_a_source_may_take_some_behaviours_only(many):
    assert episodes_of(many(behaviours=["noisy"])) == set(range(30, 40))


def test_choosing_all_episodes_by_name_changes_no_row(many):
    everything, chosen = many(), many(behaviours=["expert", "noisy"])
    assert chosen.sources[0].episodes is not None
    for step in range(20):
        assert_same(everything.batch(step, range(4)), chosen.batch(step, range(4)))


def test_documents_have_parts_too(stores, tokenizer):
    config = DataConfig({"documents": SourceConfig(store=stores["documents"], max_episodes=2)})
    assert len(episodes_of(Mixture(config, tokenizer, 24, seed=0))) == 2


def test_held_out_tasks_of_a_store_are_never_drawn(tmp_path, tokenizer, walk, corridor):
    tasks = [replace(corridor, name=f"{family}/corridor") for family in ("toy", "hard", "easy")]
    folder = write(tmp_path / "three", [replace(walk([0, 1] * 4, [1, 1] * 4), task=t) for t in tasks for _ in range(3)], tasks)
    config = DataConfig({"three": SourceConfig(store=folder)}, prompt_share=0.5, held_out=["hard/*"])
    mixture = Mixture(config, tokenizer, 24, seed=0)
    assert episodes_of(mixture) == {0, 1, 2, 6, 7, 8}
    assert list(mixture.tasks) == ["toy/corridor", "easy/corridor"]


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


@pytest.mark.parametrize("prompt_share", [0.0, 1.0])
def test_a_source_with_a_memory_fills_its_rows_with_windows_of_so_many_timesteps(stores, tokenizer, prompt_share):
    source = SourceConfig(1.0, stores["walks"], memory=2)  # a timestep has 3 tokens
    mixture = Mixture(DataConfig({"walks": source}, prompt_share), tokenizer, 64, seed=0)
    rows = [mixture.row(0, r) for r in range(20)]
    for row in rows:
        windows = [p for p in row.pieces if p.role == "window"]
        assert all(p.stop - p.start <= 2 for p in windows) and len(windows) == row.tokens.document[-1] + 1 > 1
        assert len(row.tokens) > 58
    assert any(p.role != "window" for row in rows for p in row.pieces) == bool(prompt_share)
    assert mixture.tasks["toy/corridor"].memory == 2


def test_a_memory_of_no_timestep_is_refused():
    with pytest.raises(ValueError, match=r"'data\.sources\.memory' is 0, expected a whole number from 1"):
        SourceConfig(memory=0)


def test_a_memory_of_a_source_without_timesteps_is_refused(stores, tokenizer):
    with pytest.raises(ValueError, match="source 'documents' has memory 1 but no timesteps that follow one another"):
        Mixture(DataConfig({"documents": SourceConfig(1.0, stores["documents"], memory=1)}), tokenizer, 64, seed=0)


def test_two_memories_of_one_task_are_refused(stores, tokenizer):
    sources = {"a": SourceConfig(1.0, stores["walks"], memory=1), "b": SourceConfig(1.0, stores["walks"])}
    with pytest.raises(ValueError, match="task 'toy/corridor' has memory 1 in source 'a' and None in 'b'"):
        Mixture(DataConfig(sources), tokenizer, 64, seed=0)


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


@pytest.mark.parametrize(("weights", "told"), [({}, "name at least one"), ({"walks": 0.0}, "give at least one above zero")])
def test_weights_without_sense_are_refused(stores, tokenizer, weights, told):
    config = DataConfig({name: SourceConfig(w, stores[name]) for name, w in weights.items()})
    with pytest.raises(ValueError, match=told):
        Mixture(config, tokenizer, 64, seed=0)


def test_an_empty_source_is_refused(tmp_path, tokenizer, corridor):
    with StoreWriter(tmp_path / "empty", [corridor]):
        pass
    with pytest.raises(ValueError, match="source 'empty' holds no episodes"):
        Mixture(DataConfig({"empty": SourceConfig(1, str(tmp_path / "empty"))}), tokenizer, 64, seed=0)


def test_a_missing_store_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="nowhere"):
        Mixture(DataConfig({"nowhere": SourceConfig(1, str(tmp_path / "nowhere"))}), tokenizer, 64, seed=0)


@pytest.mark.parametrize(
    ("mixture", "source", "line"),
    [
        ({}, {"part": "trian"}, "'data.sources.part' is 'trian', expected one of train, test"),
        ({}, {"part": "test", "test_share": 1.5}, "test_share' is 1.5, expected a number above 0 and below 1"),
        ({}, {"max_episodes": 0}, "max_episodes' is 0, expected a whole number from 1"),
        ({}, {"behaviours": ["exprt"]}, r"behaviours' is \['exprt'\], expected a list, each one of expert, noisy"),
        ({}, {"behaviours": ["human"]}, "source 'walks' has no episode left of 12"),
        ({}, {"part": "test", "test_share": 1e-9}, "source 'walks' has no episode left of 12"),
        ({}, {"loss_weight": -1.0}, "loss_weight' is -1.0, expected a number from 0"),
        ({}, {"weight": float("nan")}, "'data.sources.weight' is nan"),
        ({"temperature": 0.0}, {}, "'data.temperature' is 0.0, expected a number above 0"),
        ({"prompt_share": 25}, {}, "'data.prompt_share' is 25, expected a number from 0 to 1"),
        ({"workers": -1}, {}, "'data.workers' is -1"),
        ({"held_out": ["atari"]}, {}, r"give tasks as family/name and whole families as atari/\*"),
        ({"held_out": ["toy/*"]}, {}, "source 'walks' is held out by"),
    ],
)
def test_settings_without_sense_are_refused_in_one_line(stores, tokenizer, mixture, source, line):
    with pytest.raises(ValueError, match=line) as refused:
        config = DataConfig({"walks": SourceConfig(**{"store": stores["walks"]} | source)}, **mixture)
        Mixture(config, tokenizer, 64, seed=0)
    assert "\n" not in str(refused.value)


def test_a_held_out_task_is_refused_by_its_name_before_its_store_is_opened(tokenizer):
    config = DataConfig({"atari/boxing": SourceConfig(store="nowhere")}, held_out=["atari/boxing"])
    with pytest.raises(ValueError, match="source 'atari/boxing' is held out"):
        Mixture(config, tokenizer, 64, seed=0)


def test_what_the_tokenizer_or_the_context_cannot_hold_is_refused_before_training(stores, tokenizer):
    config = DataConfig({"drives": SourceConfig(store=stores["drives"])})
    with pytest.raises(ValueError, match=r"task 'toy/robot' has text but no text tokenizer"):
        Mixture(config, EpisodeTokenizer(None), 64, seed=0)
    with pytest.raises(ValueError, match="at least 5 observation tokens in a timestep but the model has 4 local positions"):
        Mixture(config, EpisodeTokenizer(tokenizer.text, tokenizer.vocabulary, max_local_positions=4), 64, seed=0)
    with pytest.raises(ValueError, match="at least 5 observation tokens, so no action fits behind them into a context of 6"):
        Mixture(config, tokenizer, 6, seed=0)


def test_more_action_numbers_than_the_model_has_slots_are_refused_before_training(tmp_path):
    """In the compact layout, where they are predicted together; in the paper's each is a token behind the others."""
    angle = FieldSpec("angle", Modality.CONTINUOUS, "observation")
    task = TaskSpec("toy/organ", (angle, FieldSpec("keys", Modality.CONTINUOUS, "action", (40,), low=(-1.0,), high=(1.0,))))
    store = write(tmp_path / "organ", [Episode(task, {"angle": np.zeros(1)}, {"keys": np.zeros((1, 40))}, np.zeros(1, np.float32))])
    config = DataConfig({"organ": SourceConfig(store=store)})
    with pytest.raises(ValueError, match="'toy/organ' has 40 action numbers in a timestep but the model has 32 local positions"):
        Mixture(config, EpisodeTokenizer(None, max_local_positions=32, layout="compact"), 64, seed=0)
    assert len(Mixture(config, EpisodeTokenizer(None, max_local_positions=32), 64, seed=0).row(0, 0).tokens) == 42


def test_a_task_that_means_something_else_elsewhere_is_refused(tmp_path, stores, tokenizer, walk, corridor):
    wider = replace(corridor, fields=(replace(corridor.fields[0], high=(4,)), corridor.fields[1]))
    folder = write(tmp_path / "wider", [replace(walk([0, 1], [1, 1]), task=wider)])
    config = DataConfig({"walks": SourceConfig(store=stores["walks"]), "wider": SourceConfig(store=folder)})
    with pytest.raises(
        ValueError, match=r"source 'wider': task 'toy/corridor' is not the one of source 'walks': observation 'cell' has high"
    ):
        Mixture(config, tokenizer, 64, seed=0)


def test_an_episode_longer_than_the_context_is_seen_whole_over_time(mix):
    mixture = mix(walks=1, context_length=9, prompt_share=0)  # three timesteps; the episode number 11 has 40
    seen = {t for r in range(4000) for p in mixture.row(0, r).pieces[:1] if p.episode == 11 for t in range(p.start, p.stop)}
    assert seen == set(range(40))


def test_a_prompt_whose_timestep_does_not_fit_is_left_out_and_said(mix):
    """A robot's timestep has 8 tokens or more: half of a context of 14 holds none."""
    mixture = mix(drives=1, context_length=14, prompt_share=1.0)
    rows = [mixture.row(0, r) for r in range(20)]
    assert all(row.wants_prompt and row.pieces[0].role == "window" for row in rows)
