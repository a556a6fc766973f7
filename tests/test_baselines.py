"""Policies that need no pretraining: nearest states, small networks, and their folders.

Trainings here are a few dozen updates.
"""

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save as tensors_to_bytes

import gato
from gato.cli import main
from gato.episode import Episode, act_in_one
from gato.eval.settings import LEARNED_ALONE
from gato.learners.actions import ActionVectors
from gato.learners.chunks import chunked, chunked_episode
from gato.learners.clone import CloneNetwork, ClonePolicy, KeypointPolicy
from gato.learners.contradictions import contradictions
from gato.learners.darp import DifferencePolicy
from gato.learners.features import Features
from gato.learners.folder import KINDS, BaselineAgent, save_baseline
from gato.learners.keypoints import places_of
from gato.learners.nearest import LinePolicy, NearestPolicy, NeighboursPolicy
from gato.learners.network import Schedule
from gato.learners.reactive import Parts
from gato.spec import FieldSpec, Modality, TaskSpec

BRIEF = Schedule(floor=60, updates=20, rounds=1)
TRAINED = ("clone", "keypoints", "darp")
WITHOUT_PICTURES = [kind for kind in KINDS if kind != "keypoints"]


@pytest.fixture(scope="module")
def slide() -> TaskSpec:
    """A place on a line and a push in [-1, 1]."""
    place = FieldSpec("place", Modality.CONTINUOUS, "observation", (1,))
    push = FieldSpec("push", Modality.CONTINUOUS, "action", (1,), low=(-1.0,), high=(1.0,))
    return TaskSpec("toy/slide", (place, push))


@pytest.fixture(scope="module")
def slid(slide):
    """slid([0, 1], [0.5, -1]): an episode of these places and pushes."""

    def make(places, pushes) -> Episode:
        columns = [np.array(values, np.float32)[:, None] for values in (places, pushes)]
        return Episode(slide, {"place": columns[0]}, {"push": columns[1]}, np.zeros(len(places), np.float32))

    return make


def learned(kind: str, task: TaskSpec, episodes, **rest):
    """A policy of a kind, trained briefly where it is trained."""
    given = {"schedule": BRIEF} if kind in TRAINED else {}
    return KINDS[kind].of(task, episodes, **given, **rest)


def pushed(policy, *places: float) -> list[float]:
    return policy.act({"place": np.array(places, np.float32)[:, None]})["push"][:, 0].tolist()


# -- what is looked up -----------------------------------------------------------------------------


def test_retrieving_plays_the_action_of_the_nearest_state(slide, slid):
    policy = NearestPolicy.of(slide, [slid([0, 1, 2], [0.5, -0.25, 1])])
    assert pushed(policy, 0.4, 0.6, 9) == [0.5, -0.25, 1.0]


def test_in_one_environment_an_observation_is_checked_before_it_is_acted_on(slide, slid):
    policy = NearestPolicy.of(slide, [slid([0, 1, 2], [0.5, -0.25, 1])])
    assert policy.act_one(np.array([0.9])) == pytest.approx([-0.25])  # float64, as many environments give it
    with pytest.raises(ValueError, match=r"'place' at timestep 0 is not finite"):
        policy.act_one(np.array([np.nan]))
    with pytest.raises(ValueError, match=r"'place' has shape \(2,\), expected \(1,\)"):
        policy.act_one(np.zeros(2, np.float32))


def test_in_one_environment_what_is_missing_of_an_observation_is_named():
    fields = [FieldSpec(name, Modality.CONTINUOUS, "observation", (1,), "float32", path=(name,)) for name in "ab"]
    task = TaskSpec("two", (*fields, FieldSpec("push", Modality.CONTINUOUS, "action", (1,), "float32", (-1.0,), (1.0,))))
    with pytest.raises(ValueError, match="task 'two' observes a, b, and what was given is a; give what reset and step give"):
        act_in_one(SimpleNamespace(task=task), {"a": np.zeros(1)})


def test_five_neighbours_vote_by_how_near_they_are(slide, slid):
    """Places 0 and 2 stand one standard deviation to both sides of 1."""
    policy = NeighboursPolicy.of(slide, [slid([0, 2], [-1, 1])])
    assert pushed(policy, 1.0) == pytest.approx([0.0])
    near, far = 0.5, 1.5  # of place 0.5: in standard deviations, which are 1 here
    weights = np.exp([-near, -far])
    assert pushed(policy, 0.5) == pytest.approx([(weights[1] - weights[0]) / weights.sum()], abs=1e-6)


def test_neighbours_vote_on_discrete_actions(walk):
    episode = walk([0, 0, 0, 1], [0, 0, 1, 1])
    policy = NeighboursPolicy.of(episode.task, [episode])
    assert policy.act({"cell": np.array([0, 1])})["step"].tolist() == [0, 1]


def test_a_line_is_continued_where_no_demonstration_was(slide, slid):
    """The push is minus half of the place; a nearest state could only play what was played."""
    places = np.linspace(-1, 1, 40)
    episodes = [slid(places, -0.5 * places)]
    assert pushed(LinePolicy.of(slide, episodes), -1.5, 0.33) == pytest.approx([0.75, -0.165], abs=0.01)
    assert pushed(NearestPolicy.of(slide, episodes), -1.5) == [0.5]


def test_a_line_through_discrete_actions_plays_the_highest_column(walk):
    episode = walk([0, 1, 0, 1], [1, 0, 1, 0])
    assert LinePolicy.of(episode.task, [episode]).act({"cell": np.array([0, 1])})["step"].tolist() == [1, 0]


# -- what is trained -------------------------------------------------------------------------------


def test_an_action_at_the_end_of_its_range_may_be_overshot(slide):
    vectors = ActionVectors(slide, {})
    found, wanted = (torch.tensor([[3.0], [-3.0], [0.5], [3.0]]), torch.tensor([[1.0], [-1.0], [1.0], [0.0]]))
    squares = [vectors.loss(found[i : i + 1], wanted[i : i + 1]).item() for i in range(4)]
    assert squares == [0.0, 0.0, 0.25, 9.0]


def test_a_clone_continues_a_law_that_saturates(slide, slid):
    """The push is minus the place, clipped: a line between the ends."""
    places = np.linspace(-3, 3, 60)
    policy = ClonePolicy.of(slide, [slid(places, np.clip(-places, -1, 1))], schedule=Schedule(floor=400, rounds=0))
    assert pushed(policy, -4, 0, 0.5, 4) == pytest.approx([1, 0, -0.5, -1], abs=0.05)


@pytest.mark.parametrize("kind", ["clone", "darp"])
def test_training_is_the_same_twice_and_another_with_another_seed(kind, slide, slid):
    episodes = [slid([0, 1, 2], [1, -1, 1]), slid([3, 4], [0, 0.5])]
    first, again, other = (pushed(learned(kind, slide, episodes, seed=seed), 0.5, 3.3) for seed in (0, 0, 1))
    assert first == again != other


def test_training_goes_on_while_the_held_out_loss_falls_and_is_never_cut_short(slide, slid):
    places = np.linspace(-1, 1, 20)
    episodes = [slid(places, places / 2)]
    patient = replace(BRIEF, floor=10, updates=10, rounds=3, gain=0.0)
    assert ClonePolicy.of(slide, episodes, episodes, schedule=patient).updates == 40
    opposite = [slid(places, -places / 2)]  # every update makes it worse
    assert ClonePolicy.of(slide, episodes, opposite, schedule=replace(patient, floor=30)).updates in (40, 50)


def test_held_out_actions_that_no_demonstration_has_do_not_judge(walk):
    known, unknown = walk([0, 1], [0, 0]), walk([0, 1], [1, 1])
    vectors = ActionVectors.of(known.task, [known])
    assert vectors.known_among([known, unknown]) == [known]
    assert ClonePolicy.of(known.task, [known], [unknown], schedule=BRIEF).act({"cell": np.array([0])})["step"].tolist() == [0]


def test_differences_to_neighbours_of_other_demonstrations_are_learned_from(slide, slid):
    """The push is minus the place: what a neighbour did is corrected by how far away it stands."""
    episodes = [slid(np.linspace(-1, 1, 20) + shift, -(np.linspace(-1, 1, 20) + shift) / 2) for shift in (0, 0.05)]
    policy = DifferencePolicy.of(slide, episodes, schedule=Schedule(floor=300, rounds=0))
    assert pushed(policy, 0.02, 0.52) == pytest.approx([-0.01, -0.26], abs=0.05)
    own = policy._others(episodes)
    assert (own[:20] >= 20).all() and (own[20:] < 20).all()


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_instructions_and_motors_stay_inside_their_ranges(kind, robot, drive):
    policy = learned(kind, robot, [drive(4, "go"), drive(3, "stop", seed=1)])
    motors = policy.act(drive(5, "turn", seed=2).observations)["motors"]
    assert motors.shape == (5, 2) and (motors >= [-1, 0]).all() and (motors <= [1, 10]).all()


@pytest.mark.parametrize("side, step", [(64, 2), (80, 4), (112, 4)])
def test_a_large_picture_is_looked_at_in_wider_steps_and_an_older_policy_as_it_was(side, step):
    """A folder from before this was said has the small steps."""
    fields = (
        FieldSpec("view", Modality.IMAGE, "observation", (side, side, 3), "uint8"),
        FieldSpec("turn", Modality.DISCRETE, "action", (), "int64", (0,), (1,)),
    )
    task = TaskSpec("toy/look", fields)
    views = np.random.default_rng(0).integers(256, size=(4, side, side, 3), dtype=np.uint8)
    episode = Episode(task, {"view": views}, {"turn": np.array([0, 1, 0, 1])}, np.zeros(4, np.float32))
    policy = ClonePolicy.of(task, [episode], schedule=Schedule(floor=2, rounds=0))
    assert policy.settings()["step"] == step and policy.network.eyes[0][0].stride == (step, step)
    features, vectors = policy.features, policy.vectors
    assert not any(isinstance(layer, torch.nn.AdaptiveAvgPool2d) for layer in policy.network.eyes[0])
    older = CloneNetwork(task, 1, 2, step=2, keeps_cells=False), {"activation": "tanh", "with_line": True}
    for kept, (network, said) in ((step, (policy.network, policy.settings())), (2, older)):
        tensors = {f"network.{name}": t for name, t in network.state_dict().items()}
        again = ClonePolicy.restored(Parts(features, vectors, tensors, said))
        assert again.network.step == kept and again.act({"view": views})["turn"].shape == (4,)


# -- keypoints -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def look() -> TaskSpec:
    """A dot in a picture of 32 x 32, and a push in [-1, 1]."""
    fields = (
        FieldSpec("view", Modality.IMAGE, "observation", (32, 32, 3), "uint8"),
        FieldSpec("push", Modality.CONTINUOUS, "action", (1,), low=(-1.0,), high=(1.0,)),
    )
    return TaskSpec("toy/dot", fields)


def dotted(places: np.ndarray) -> np.ndarray:
    """Pictures (n, 32, 32, 3) of a white dot of 3 x 3 around these places, (n, 2): row and column."""
    views = np.zeros((len(places), 32, 32, 3), np.uint8)
    for view, (row, column) in zip(views, places, strict=True):
        view[row - 1 : row + 2, column - 1 : column + 2] = 255
    return views


def test_a_map_is_read_as_the_place_where_it_is_highest():
    """Five columns and three rows: the first map is high right at the top, the second nowhere more than elsewhere."""
    maps = torch.zeros(1, 2, 3, 5)
    maps[0, 0, 0, 4] = 100
    torch.testing.assert_close(places_of(maps), torch.tensor([[1.0, 0.0, -1.0, 0.0]]))


def test_keypoints_tell_where_a_thing_lies_that_no_demonstration_has_there(look):
    """The push is the dot's column. Sixteen places are shown, and it lies at 50 others now."""
    rng = np.random.default_rng(0)
    places, others = (rng.integers(2, 30, (count, 2)) for count in (16, 50))
    shown, asked = ((p[:, 1:] - 15.5).astype(np.float32) / 15.5 for p in (places, others))
    episode = Episode(look, {"view": dotted(places)}, {"push": shown}, np.zeros(len(places), np.float32))
    wrong = {}
    for kind in ("keypoints", "clone"):
        policy = KINDS[kind].of(look, [episode], schedule=Schedule(floor=250, rounds=0))
        wrong[kind] = np.abs(policy.act({"view": dotted(others)})["push"] - asked).mean()
    assert wrong["keypoints"] < 0.1 < 0.2 < wrong["clone"]


def test_keypoints_of_one_timestep_play_what_was_shown(look):
    view = dotted(np.array([[5, 9]]))
    episode = Episode(look, {"view": view}, {"push": np.array([[0.5]], np.float32)}, np.zeros(1, np.float32))
    policy = KeypointPolicy.of(look, [episode], schedule=Schedule(floor=200, rounds=0))
    assert policy.act({"view": view})["push"].tolist() == [[pytest.approx(0.5, abs=0.05)]]


@pytest.mark.parametrize("side, step", [(32, 2), (64, 4)])
def test_keypoints_look_at_pictures_of_more_than_32_pixels_in_wider_steps(look, side, step):
    """All places of the maps are looked at, so that small steps would cost four times as much."""
    view = replace(look.observations[0], shape=(side, side, 3))
    assert CloneNetwork(replace(look, fields=(view, *look.actions)), 1, 1, keypoints=True).step == step


def test_keypoints_without_a_picture_are_refused(slide, slid):
    with pytest.raises(ValueError, match="task 'toy/slide' shows none; choose another mode, such as clone"):
        KINDS["keypoints"].of(slide, [slid([0, 1], [0, 1])])


# -- poor demonstrations ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WITHOUT_PICTURES)
@pytest.mark.parametrize("case", ["one timestep", "all equal", "an observation that never moves", "an action that never moves"])
def test_poor_demonstrations_give_a_policy_that_plays_what_was_shown(kind, case, slide, slid):
    episodes, place = {
        "one timestep": ([slid([1], [0.5])], 1),
        "all equal": ([slid([1, 2], [0.5, 0.5])] * 3, 1),
        "an observation that never moves": ([slid([1, 1, 1], [0.5, 0.5, 0.5])], 7),
        "an action that never moves": ([slid(range(8), [0.5] * 8)], 3.3),
    }[case]
    given = {"schedule": Schedule(floor=300, rounds=0)} if kind in TRAINED else {}
    assert pushed(KINDS[kind].of(slide, episodes, **given), place) == pytest.approx([0.5], abs=0.05)


@pytest.mark.parametrize("kind", WITHOUT_PICTURES)
def test_a_single_discrete_action_is_all_that_is_played(kind, walk):
    episode = walk([0, 0, 1], [1, 1, 1])
    assert learned(kind, episode.task, [episode]).act({"cell": np.array([0, 1, 1])})["step"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", WITHOUT_PICTURES)
def test_contradictory_demonstrations_give_a_policy(kind, slide, slid):
    (push,) = pushed(learned(kind, slide, [slid([0, 1], [-1, 0]), slid([0, 1], [1, 0])]), 0)
    assert -1 <= push <= 1


def test_contradictions_are_counted(slide, slid, drive, robot):
    assert contradictions(slide, [slid([0, 1, 2], [0, 0, 0]), slid([0, 1, 5], [1, 0.01, 0])]) == 2
    assert contradictions(slide, [slid([0, 0], [0.5, 0.5])]) == 0
    assert contradictions(robot, [drive(3), drive(3)]) == 0


def test_a_picture_that_differs_is_no_contradiction(robot, drive):
    episode = drive(3)
    views = {**episode.observations, "camera": episode.observations["camera"].copy()}
    same = replace(episode, actions={"motors": episode.actions["motors"][::-1].copy()})
    assert contradictions(robot, [episode, same]) >= 4
    views["camera"][:, 0, 0, 0] ^= 1
    assert contradictions(robot, [episode, replace(same, observations=views)]) == 0


def test_what_never_moved_says_nothing_later(robot, drive):
    still = drive(3, "go")
    still = replace(still, observations={**still.observations, "gripper/force": np.full(3, 5, np.float32)})
    features = Features.of(robot, [still])
    other = {**still.observations, "gripper/force": np.full(3, -100, np.float32)}
    np.testing.assert_array_equal(features(other), features(still.observations))


def test_a_text_that_no_demonstration_has_is_all_zeros_before_scaling(drive, robot):
    features = Features.of(robot, [drive(3, "go"), drive(3, "stop", seed=1)])
    known, unknown = (features._raw(drive(1, goal).observations) for goal in ("go", "turn"))
    assert known.shape == unknown.shape and known.sum() - unknown.sum() == pytest.approx(1)


# -- actions as vectors ----------------------------------------------------------------------------


def test_numbers_choices_and_words_come_back_from_their_vectors():
    fields = (
        FieldSpec("see", Modality.CONTINUOUS, "observation"),
        FieldSpec("arm", Modality.CONTINUOUS, "action", (2,), low=(0.0,), high=(10.0,)),
        FieldSpec("keys", Modality.DISCRETE, "action", (2,), "int64", (3,), (7,)),
        FieldSpec("say", Modality.TEXT, "action", dtype="str"),
    )
    actions = {
        "arm": np.array([[0, 10], [5, 2.5]], np.float32),
        "keys": np.array([[3, 7], [5, 5]]),
        "say": np.array(["stop", "go"], object),
    }
    task = TaskSpec("toy/three", fields)
    episode = Episode(task, {"see": np.zeros(2, np.float32)}, actions, np.zeros(2, np.float32))
    vectors = ActionVectors.of(task, [episode])
    assert vectors.known == {"keys": [0, 2, 4], "say": ["go", "stop"]} and vectors.size == 2 + 2 * 3 + 2
    encoded = vectors.encode(actions)
    assert encoded[0].tolist() == [-1, 1, 1, 0, 0, 0, 0, 1, 0, 1]
    again = vectors.decode(encoded)
    assert all((again[name] == values).all() and again[name].dtype == values.dtype for name, values in actions.items())


# -- folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_acts_after_loading_as_before(kind, robot, drive, tmp_path):
    episodes, seen = [drive(4, "go"), drive(3, "stop", seed=1)], drive(5, "stop", seed=2)
    policy = learned(kind, robot, episodes)
    save_baseline(policy, tmp_path)
    again = gato.load(tmp_path).policy(robot)
    np.testing.assert_array_equal(again.act(seen.observations)["motors"], policy.act(seen.observations)["motors"])


def test_what_a_folder_lacks_of_a_gatos_is_not_there_and_said_in_words(slide, slid):
    agent = BaselineAgent(learned("retrieve", slide, [slid([0], [1])]))
    assert hasattr(agent, "policy") and not hasattr(agent, "caption") and getattr(agent, "tokenizer", None) is None
    for kind in (ValueError, AttributeError):
        with pytest.raises(kind, match="holds a retrieve policy, which acts in 'toy/slide' and has no 'caption'"):
            agent.caption("picture.png")


def test_a_folder_gives_a_policy_for_its_own_fields_and_for_what_it_has_a_use_for(slide, slid):
    one, push = slid([0], [1]), slide.actions[0]
    single = BaselineAgent(learned("retrieve", slide, [one]))
    chunks = BaselineAgent(learned("retrieve", chunked(slide, 2), [chunked_episode(one, 2)]), 2)
    far = replace(slide, name="toy/far", fields=(*slide.observations, replace(push, high=(9.0,))))
    for agent in (single, chunks):
        with pytest.raises(ValueError, match="task 'toy/far' differs from 'toy/slide', .*: action 'push' has high .9.0,., expected .1.0,."):
            agent.policy(far)
        with pytest.raises(ValueError, match="a task is 3, expected the name of one or a TaskSpec"):
            agent.policy(3)
        alike = agent.policy(replace(slide, name="toy/other"), 0.5, seed=1, memory=4)
        assert alike.act({"place": np.zeros((1, 1), np.float32)})["push"].tolist() == [[1]]
    for agent, acts, name in (
        (single, "single actions", "every"), (single, "single actions", "temprature"), (single, "single actions", "target_return"),
        (chunks, "chunks of 2 actions", "evry"), (chunks, "chunks of 2 actions", "prompt"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"a retrieve policy of {acts} has no use for {name}; leave that out"):
            agent.policy(slide, **{name: 1})


def written(folder, task: TaskSpec, kind: str, tensors: dict, **rest) -> None:
    """A folder of format 1, as it was written before there was format 2."""
    weights = tensors_to_bytes(tensors)
    content = {"format": 1, "kind": kind, "task": task.to_dict(), "texts": {}, "actions": {}} | rest
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "baseline.json").write_text(json.dumps(content | {"sha256": hashlib.sha256(weights).hexdigest()}))


def test_a_retrieval_folder_of_before_opens(slide, tmp_path):
    """Features are a column of zeros and the place, here measured from 1 in halves."""
    tensors = {
        "features/mean": torch.tensor([0, 1.0]).double(), "features/scale": torch.tensor([1, 0.5]).double(),
        "states": torch.tensor([[0, -2.0], [0, 2.0]]), "actions/push": torch.tensor([[0.5], [-0.25]]),
    }  # fmt: skip
    written(tmp_path, slide, "retrieve", tensors)
    assert pushed(gato.load(tmp_path).policy("toy/slide"), 0, 1.2) == [0.5, -0.25]


def test_a_cloning_folder_of_before_opens(corridor, tmp_path):
    """Rectified units, no linear path, a head for each action field, classes for all values."""
    body = {
        "body.0.weight": torch.zeros(256, 3),
        "body.0.bias": torch.zeros(256),
        "body.2.weight": torch.eye(256),
        "body.2.bias": torch.zeros(256),
    }
    body["body.0.weight"][0] = torch.tensor([0, 1.0, -1.0])  # positive in cell 0 alone
    head = {"heads.0.weight": torch.zeros(2, 256), "heads.0.bias": torch.tensor([0.0, 0.5])}
    head["heads.0.weight"][0, 0] = 1
    statistics = {"features/mean": torch.zeros(3).double(), "features/scale": torch.ones(3).double()}
    written(tmp_path, corridor, "clone", statistics | {f"network/{name}": value for name, value in (body | head).items()})
    policy = gato.load(tmp_path).policy("toy/corridor")
    assert policy.act({"cell": np.array([0, 1])})["step"].tolist() == [0, 1]
    save_baseline(policy, tmp_path / "again")
    assert gato.load(tmp_path / "again").policy("toy/corridor").act({"cell": np.array([0, 1])})["step"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 3}, "format 3 and kind 'knn', expected 1 or 2"),
        ({"kind": "guess"}, "kind 'guess', expected 1 or 2 and one of retrieve"),
        ({"values": {"step": [0, 7]}}, r"action 'step' has values that are not its own: \[0, 7\]"),
        ({"values": {}}, r"values of the actions \[\], expected of \['step'\]"),
        ({"settings": 7}, "does not fit together"),
    ],
)
def test_a_folder_that_was_changed_is_refused(change, said, walk, tmp_path):
    episode = walk([0, 1], [0, 1])
    save_baseline(NeighboursPolicy.of(episode.task, [episode]), tmp_path)
    content = json.loads((tmp_path / "baseline.json").read_text())
    (tmp_path / "baseline.json").write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=said):
        gato.load(tmp_path)


@pytest.mark.parametrize("kind", WITHOUT_PICTURES)
def test_a_sound_folder_is_validated(kind, walk, tmp_path, capsys):
    episode = walk([0, 1], [0, 1])
    save_baseline(learned(kind, episode.task, [episode]), tmp_path)
    assert main(["validate", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["sound"] for row in rows) and len(rows) == 3


@pytest.mark.parametrize("damage", ["weights", "json", "not finite", "another task"])
def test_validating_finds_what_is_damaged(damage, slide, slid, tmp_path, capsys):
    policy = NearestPolicy.of(slide, [slid([0, 1], [0, 1])])
    if damage == "not finite":
        policy.states[0, 0] = np.nan
    save_baseline(policy, tmp_path)
    content = tmp_path / "baseline.json"
    if damage == "weights":
        (tmp_path / "model.safetensors").write_bytes(b"\0" * 9)
    elif damage == "json":
        content.write_text("{")
    elif damage == "another task":
        content.write_text(content.read_text().replace('"place"', '"places"').replace('"shape": [\n     1\n    ]', '"shape": [2]', 1))
    assert main(["validate", str(tmp_path)]) == 1
    assert "DAMAGED" in capsys.readouterr().out


def test_every_kind_is_a_mode_of_the_command():
    assert set(KINDS) == set(LEARNED_ALONE)
