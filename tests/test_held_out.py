"""Tasks that the registry keeps out of pretraining: no mixture draws them unless its recipe says so."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from gato import envs
from gato.cli import main
from gato.cli.recipes import recipe_path, recipes
from gato.data.mixture import Mixture, check
from gato.data.selection import DataConfig, SourceConfig
from gato.data.source import is_held_out
from gato.data.store import StoreWriter
from gato.spec import TaskSpec

# descriptions to learn from, what is learned by acting, and a family of one task
NOTHING_HELD_OUT = {"babyai-view", "minigrid", "minatar-cells", "toy"}


def sources_of(recipe: str) -> dict:
    return yaml.safe_load(recipe_path(recipe).read_text()).get("data", {}).get("sources", {})  # what acts has none


@pytest.fixture
def stored(tmp_path, walk):
    """stored(task, task): a store with three walks of each."""

    def make(*tasks: TaskSpec) -> str:
        with StoreWriter(tmp_path / "stored", tasks) as writer:
            for task in tasks:
                for _ in range(3):
                    writer.append(replace(walk([0, 1] * 4, [1, 1] * 4), task=task))
        return str(tmp_path / "stored")

    return make


def mixture_of(folder: str, tokenizer, **settings) -> Mixture:
    return Mixture(DataConfig({"mine": SourceConfig(store=folder)}, prompt_share=0.5, **settings), tokenizer, 24, seed=0)


def drawn_tasks(mixture: Mixture, rows: int = 200) -> set[str]:
    """The tasks of every window and every prompt."""
    (source,) = mixture.sources
    episodes = {piece.episode for r in range(rows) for piece in mixture.row(0, r).pieces}
    return {source.store.tasks[source.task_index(e)].name for e in episodes}


def test_every_family_of_several_tasks_has_one_held_out_and_robotics_has_all():
    families = {name.split("/")[0] for name in envs.tasks()}
    assert {name.split("/")[0] for name in envs.held_out()} == families - NOTHING_HELD_OUT
    assert {name for name in envs.tasks() if name.startswith("robotics/")} <= set(envs.held_out())


def test_the_page_of_suites_names_every_held_out_task():
    page = (Path(__file__).parent.parent / "docs" / "suites.md").read_text()
    patterns = re.findall(r"`([\w-]+/[\w*-]+)`", page.split("## Held-out tasks")[1].split("\n## ")[0])
    assert [name for name in envs.held_out() if not is_held_out(name, patterns)] == []


def test_the_nearest_sibling_is_a_task_that_may_be_trained():
    for name, sibling in envs.held_out().items():
        assert sibling in envs.tasks() and sibling not in envs.held_out(), name


@pytest.mark.parametrize("recipe", recipes())
def test_no_shipped_recipe_has_a_held_out_source_or_asks_for_one(recipe):
    assert not sources_of(recipe).keys() & envs.held_out().keys()
    assert "include_held_out" not in recipe_path(recipe).read_text()


def test_the_reference_recipe_trains_the_siblings_of_all_families_it_has():
    trained = sources_of("reference").keys()
    families = {name.split("/")[0] for name in trained}
    assert {s for s in envs.held_out().values() if s.split("/")[0] in families} <= trained


def test_a_held_out_source_is_refused_before_its_store_is_opened():
    with pytest.raises(ValueError, match="metaworld/assembly for few-shot learning: .* name it in include_held_out"):
        check(DataConfig({"metaworld/assembly": SourceConfig(store="nowhere")}))
    check(DataConfig({"metaworld/assembly": SourceConfig()}, include_held_out=["metaworld/assembly"]))


def test_the_recipe_says_by_name_what_it_includes():
    with pytest.raises(ValueError, match="'robotics/fetch-reach' is held out"):
        check(DataConfig({"robotics/fetch-reach": SourceConfig()}, include_held_out=["metaworld/*"]))
    with pytest.raises(ValueError, match="include_held_out names 'metaworld/asembly', which the registry does not hold out"):
        check(DataConfig({"toy/corridor": SourceConfig()}, include_held_out=["metaworld/asembly"]))


def test_what_the_mixture_itself_holds_out_stays_out_although_it_is_included():
    config = DataConfig(held_out=["metaworld/*"], include_held_out=["metaworld/assembly"])
    assert is_held_out("metaworld/assembly", config.all_held_out)


def test_pretraining_on_a_held_out_task_ends_with_one_line(tmp_path, monkeypatch, text, capsys):
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stores").mkdir()
    text.save(tmp_path / "stores" / "tokenizer.model")
    (tmp_path / "mine.yaml").write_text("data: {sources: {robotics/fetch-push: {}}}\ntrain: {steps: 1, device: cpu}")
    assert main(["pretrain", "mine.yaml"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("gato: source 'robotics/fetch-push' is held out")


def test_held_out_tasks_of_a_store_of_many_are_never_drawn(stored, tokenizer, corridor):
    folder = stored(*(replace(corridor, name=name) for name in ("babyai/pickup-loc", "babyai/put-next-local", "mine/corridor")))
    mixture = mixture_of(folder, tokenizer)
    assert drawn_tasks(mixture) == set(mixture.tasks) == {"babyai/pickup-loc", "mine/corridor"}
    assert len(drawn_tasks(mixture_of(folder, tokenizer, include_held_out=["babyai/put-next-local"]))) == 3


def test_a_store_of_held_out_tasks_alone_is_refused_under_any_name(stored, tokenizer, corridor):
    folder = stored(replace(corridor, name="robotics/fetch-push"))
    with pytest.raises(ValueError, match=r"source 'mine' is held out by \['robotics/fetch-push'\]"):
        mixture_of(folder, tokenizer)


def test_recordings_of_a_held_out_world_are_held_out_under_another_name(stored, tokenizer, corridor):
    imported = replace(corridor, name="pointmaze/umaze", env_id="PointMaze_UMaze-v2", env_kwargs={"continuing_task": True})
    mixture = mixture_of(stored(imported, replace(corridor, name="pointmaze/mine")), tokenizer)
    assert drawn_tasks(mixture) == {"pointmaze/mine"}


@pytest.mark.parametrize(("kwargs", "name"), [({}, "lunar-lander"), ({"continuous": True}, "lunar-lander-continuous")])
def test_of_two_tasks_with_one_environment_id_the_arguments_decide(corridor, kwargs, name):
    landing = replace(corridor, name="mine/landing", env_id="LunarLander-v3", env_kwargs=kwargs)
    assert envs.registered_name(landing) == f"gymnasium/{name}"
