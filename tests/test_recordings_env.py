"""Recordings of an environment of one's own: the spec that is made for it, what is found by which name, and learning from it."""

import json
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from gato import envs
from gato.agent import Agent, load
from gato.cli import main
from gato.data.formats.dataset import import_dataset
from gato.data.formats.recordings.env_spec import FILL_IN, env_spec
from gato.data.formats.recordings.reader import Recordings
from gato.data.inspection.doubts import doubts_of
from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.eval.demonstrations import open_demonstrations, with_returns
from gato.eval.settings import FewShotConfig
from gato.spec import TaskSpec

T = 6
INF = np.inf


def npz(folder: Path, name: str = "run.npz", **values) -> Path:
    np.savez(folder / name, **values)
    return folder / name


def task_of(observation, action, **rest) -> TaskSpec:
    return TaskSpec.from_spaces("Crane-v0", observation, action, env_id="crane:Crane-v0", **rest)


def box(size: int, low: float = -INF, high: float = INF) -> spaces.Box:
    return spaces.Box(low, high, (size,), np.float32)


def lines(text: str, *names: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip().split(":")[0] in names]


# -- what is found by which name ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "done"), [("observation", "action"), ("observations", "actions"), ("obs", "act"), ("state", "u"), ("s", "a")]
)
def test_the_only_fields_of_an_environment_are_found_by_the_usual_names(tmp_path, seen, done):
    values = {seen: np.zeros((T + 1, 3)), done: np.zeros((T, 1)), "reward": np.zeros(T), "ok": np.zeros(T, bool)}
    made = env_spec(npz(tmp_path, **values), task_of(box(3), box(1, -1.1, 1.1), episode_limit=40))
    assert not made.doubts and not made.left_out
    assert made.text.splitlines()[1:] == [
        'task: "Crane-v0"', 'env_id: "crane:Crane-v0"', "episode_limit: 40", "observations:",
        f"  observation: {{key: {seen}, modality: continuous, shape: [3], dtype: float32}}", "actions:",
        f"  action: {{key: {done}, modality: continuous, shape: [1], dtype: float32, low: -1.100000023841858, high: 1.100000023841858}}",
        "reward: reward", "success: ok",
    ]  # fmt: skip


def test_parts_of_a_dict_are_found_without_their_side_separators_and_plural(tmp_path):
    goals = spaces.Dict(observation=box(6), achieved_goal=box(3), desired_goal=box(3))
    values = {"obs_observation": np.zeros((T, 6)), "obs/achieved-goals": np.zeros((T, 3)), "desired_goal": np.zeros((T, 3))}
    made = env_spec(npz(tmp_path, **values, actions=np.zeros((T, 4))), task_of(goals, box(4, -1, 1)))
    found = [line.partition(", ")[0] for line in lines(made.text, *goals.keys())]
    assert not made.doubts and found == [
        '  achieved_goal: {key: "obs/achieved-goals"', "  desired_goal: {key: desired_goal", "  observation: {key: obs_observation",
    ]  # fmt: skip


def test_an_observation_is_never_taken_from_what_is_called_an_action(tmp_path):
    made = env_spec(
        npz(tmp_path, **{"action/position": np.zeros((T, 2)), "obs/position": np.zeros((T, 2))}),
        task_of(spaces.Dict(position=box(2)), spaces.Dict(position=box(2, -1, 1))),
    )
    assert made.taken == [
        "observation 'position' from obs/position (6, 2) float64",
        "action 'position' from action/position (6, 2) float64",
    ]


def test_ends_and_success_are_never_observations_however_they_are_called(tmp_path):
    """Not even where an environment observes one number; what is meant by them is asked."""
    (tmp_path / "log.csv").write_text("x,task_success,ok,done,action\n" + "".join(f"0.{t},0,{t // 5},{t // 5},0.5\n" for t in range(T)))
    for text in (env_spec(tmp_path / "log.csv", task_of(box(1), box(1, -1, 1))).text, Recordings().first_spec(tmp_path / "log.csv")):
        assert "# left out: task_success: no policy may see an end or a success" in text
        assert "success: ok" in text and "terminated: done" in text and "key: ok" not in text and "key: done" not in text
    assert "  observation: x" in text  # the only one


def test_what_fits_by_its_shape_alone_is_marked_and_refused_without_a_look(tmp_path):
    path = npz(tmp_path, qpos=np.zeros((T, 3)), torque=np.zeros((T, 1)), camera=np.zeros((T, 9)))
    made = env_spec(path, task_of(box(3), box(1, -1, 1)))
    assert "key: qpos" in made.text and "nothing has its name; qpos (6, 3) float64 alone fits: check it" in made.doubts[0]
    assert made.left_out == ["camera: it is matched with no field of the environment"]


@pytest.mark.parametrize(
    ("values", "doubt"),
    [
        ({"obs": np.zeros((T, 4))}, "obs (6, 4) float64 does not fit"),
        ({"p": np.zeros((T, 3)), "q": np.zeros((T, 3))}, "p or q may be meant"),
        ({"state": np.zeros((T, 3)), "states": np.zeros((T, 3))}, "state (6, 3) float64 and states (6, 3) float64 may be meant"),
        ({"obs": np.zeros((T - 2, 3))}, "obs (4, 3) float64 does not fit"),
        ({n: np.zeros(T) for n in "vwxy"}, "3 of the columns v, w, x, y as a list, such as [v, w, x]"),
    ],
)
def test_a_field_that_is_not_found_says_what_to_fill_in(tmp_path, values, doubt):
    made = env_spec(npz(tmp_path, **values, action=np.zeros((T, 1))), task_of(box(3), box(1, -1, 1)))
    assert made.doubts == [f"observation 'observation' of shape (3,): {doubt}"]
    assert f"observation: {{key: {FILL_IN}, " in made.text and f"# fill in the key: {doubt}" in made.text


def test_a_single_column_that_is_numbered_is_a_vector_of_one_number(tmp_path):
    (tmp_path / "log.csv").write_text("obs_0,obs_1,act_0,reward\n" + "".join(f"{t},0.5,0.1,1\n" for t in range(T)))
    made = env_spec(tmp_path / "log.csv", task_of(box(2), box(1, -1, 1)))
    assert not made.doubts, made.doubts
    assert made.taken[:2] == ["observation 'observation' from obs_0, obs_1", "action 'action' from act_0 (6,) float64"]


def test_columns_of_a_table_are_taken_in_their_order_and_that_is_said(tmp_path):
    (tmp_path / "log.csv").write_text("episode,x,v,a,reward\n" + "".join(f"{t // 3},{t},0.5,0,1\n" for t in range(T)))
    made = env_spec(tmp_path / "log.csv", task_of(box(2), spaces.Discrete(3)))
    assert "key: [x, v]" in made.text and "episodes: {key: episode}" in made.text and "low: 0, high: 2" in made.text
    assert made.doubts == ["observation 'observation' of shape (2,): the 2 columns x, v in their order: check it"]


def test_a_camera_may_be_a_column_of_picture_files(tmp_path):
    Image.new("RGB", (24, 16), "red").save(tmp_path / "red.png")
    (tmp_path / "log.csv").write_text("episode,camera,push\n" + "0,red.png,0.5\n" * T)
    task = task_of(spaces.Dict(camera=spaces.Box(0, 255, (16, 24, 3), np.uint8)), spaces.Dict(push=box(1, -1, 1)))
    made = env_spec(tmp_path / "log.csv", task)
    assert not made.doubts and made.taken[0] == "observation 'camera' from camera (6,) bytes"
    assert "camera: {key: camera, modality: image, shape: [16, 24, 3]}" in made.text


# -- from recordings to a policy -----------------------------------------------------------------------

CRANE = '''
import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image


class Crane(gymnasium.Env):
    """Two numbers without bounds and one with; a force that float32 cannot write; a lamp that is on or off."""

    observation_space = spaces.Dict(
        cart=spaces.Box(-np.inf, np.inf, (2,), np.float32), hook=spaces.Box(-0.7, 0.7, (1,), np.float32), lamp=spaces.Discrete(2)
    )
    action_space = spaces.Box(-1.1, 1.1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.count = self.np_random.uniform(-1, 1), 0
        return self.seen(), {}

    def seen(self):
        return {"cart": np.array([self.place, 1], np.float32), "hook": np.array([self.place / 2], np.float32), "lamp": self.count % 2}

    def step(self, action):
        self.place, self.count = float(np.clip(self.place + 0.5 * action[0], -1, 1)), self.count + 1
        return self.seen(), -abs(self.place), False, False, {"is_success": abs(self.place) < 0.1}


gymnasium.register("Crane-v0", entry_point="crane:Crane", max_episode_steps=8)
'''


@pytest.fixture
def crane(tmp_path, monkeypatch):
    """The module in the current folder, and ten recordings of it."""
    (tmp_path / "crane.py").write_text(CRANE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATO_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(str(tmp_path))
    env = envs.make("crane:Crane-v0")
    (tmp_path / "recordings").mkdir()
    for i in range(10):
        seen, done, ok = [env.reset(seed=i)[0]], [], []
        for _ in range(8):
            done.append(np.clip(-2 * seen[-1]["cart"][:1], -1.1, 1.1).astype(np.float32))
            observation, *_, info = env.step(done[-1])
            seen.append(observation), ok.append(info["is_success"])
        values = {name: np.array([s[name] for s in seen]) for name in ("cart", "hook", "lamp")}
        npz(tmp_path / "recordings", f"{i}.npz", **values, act=np.array(done), ok=np.array(ok))
    yield tmp_path
    envs.task.cache_clear()
    sys.modules.pop("crane", None)
    gymnasium.registry.pop("Crane-v0", None)


def finetuned(data: str, *options: str) -> dict:
    arguments = ["finetune", "checkpoint", "--data", data, "--modes", "retrieve", "--rollouts", "2", "--validation", "2"]
    out = f"{data}{len(options)}-run"
    assert main([*arguments, "--out", out, *options]) == 0
    return json.loads(Path(f"{out}/fewshot.json").read_text())


def test_ten_recordings_become_a_policy_of_their_environment(crane, make_gato, tokenizer, capsys):
    """At once; by the printed spec; and by one that measures ranges or leaves them out, which fits the environment too."""
    Agent(make_gato().float(), tokenizer, {}).save(crane / "checkpoint")
    command = ["data", "import", "recordings", "recordings", "--env", "crane:Crane-v0"]
    assert main([*command, "--out", "once"]) == 0
    assert "observation 'cart' from cart (9, 2) float32; observation 'hook' from hook (9, 1) float32" in capsys.readouterr().out
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "low: -0.699999988079071, high: 0.699999988079071" in printed
    loose = printed.replace("low: -0.699999988079071, high: 0.699999988079071", "infer: true").replace(
        "low: -1.100000023841858, high: 1.100000023841858", "low: -1.1, high: 1.1"
    )
    bare = loose.replace(", infer: true", "").replace("low: -1.1, high: 1.1", "infer: true")
    for name, text in (("printed", printed), ("loose", loose), ("bare", bare)):
        Path(f"{name}.yaml").write_text(text)
        assert main(["data", "import", "recordings", "recordings", "--spec", f"{name}.yaml", "--out", name]) == 0
    for name in ("once", "printed", "loose", "bare"):
        results = finetuned(name, "--env", "crane:Crane-v0")
        assert (results["task"], results["pool"], results["held_out"]) == ("Crane-v0", 9, 1)
    assert finetuned("once")["take"]["mode"] == "retrieve"  # the store knows its environment
    policy = load(Path("once0-run/best")).policy("Crane-v0")
    env = envs.make("crane:Crane-v0")
    seen, _ = env.reset(seed=3)
    policy.reset()
    assert env.action_space.contains(policy.act_one(seen))


def test_a_store_of_an_environment_has_its_fields_and_one_episode_per_file(crane):
    dataset = Recordings(env="crane:Crane-v0").open(Path("recordings"))
    store = Store(import_dataset(dataset, "stores")["train"])
    assert store.tasks[0].differences(envs.task("crane:Crane-v0")) == []
    episode = store.episode(0)
    assert store.num_episodes == 10 and episode.success and episode.final_observation is not None and episode.num_timesteps == 8


def test_actions_that_use_little_of_their_range_are_to_be_checked(crane, capsys):
    (crane / "scaled").mkdir()
    npz(crane / "scaled", cart=np.zeros((T, 2)), hook=np.zeros((T, 1)), lamp=np.zeros(T, int), act=np.linspace(-0.2, 0.2, T)[:, None])
    for folder, told in (("recordings", False), ("scaled", True)):
        assert main(["data", "import", "recordings", folder, "--env", "crane:Crane-v0", "--out", f"{folder}-store"]) == 0
        line = "check: action 'action' stays within -0.2 to 0.2 of a range of "
        assert (line in capsys.readouterr().out) is told


def test_observations_beyond_their_range_and_ends_that_stay_on_are_to_be_checked(crane, capsys):
    (crane / "odd").mkdir()
    hook = np.array([0, 0, -99, 0, 0, 0.7])[:, None]
    npz(crane / "odd", cart=np.full((T, 2), 1e6), hook=hook, lamp=np.zeros(T, int), act=np.zeros((T, 1)), done=np.arange(T) >= 4)
    assert main(["data", "import", "recordings", "odd", "--env", "crane:Crane-v0", "--out", "odd-store"]) == 0
    said = capsys.readouterr().out
    assert "check: observation 'hook' goes from -99 to 0.7 in element 0, of a range of -0.7 to 0.7;" in said and "'cart' goes" not in said
    assert f"check: {T - 5} of {T - 4} episodes have one timestep; does an end stay on for several rows?" in said


def test_numbered_columns_are_read_by_their_numbers_wherever_they_stand(crane):
    (crane / "columns").mkdir()
    (crane / "columns/a.csv").write_text("demo,cart_10,cart_9,hook,lamp,act\n" + "\n".join(f"{t // 3},10,9,0,1,0.5" for t in range(6)))
    store = Store(import_dataset(Recordings(env="crane:Crane-v0").open(Path("columns")), "columns-store")["train"])
    assert store.num_episodes == 2 and store.episode(1).observations["cart"].tolist() == [[9, 10]] * 3


def test_an_array_that_one_episode_lacks_is_not_looked_for_in_another(crane):
    h5py = pytest.importorskip("h5py")
    (crane / "arms").mkdir()
    with h5py.File(crane / "arms/a.hdf5", "w") as file:
        for i, names in enumerate((("cart", "hook", "lamp", "act"), ("cart", "hook", "lamp", "acts"))):
            for name in names:
                file[f"data/demo_{i}/{name}"] = (
                    np.zeros((T, 2)) if name == "cart" else np.zeros(T, int) if name == "lamp" else np.zeros((T, 1))
                )
    with pytest.raises(ValueError, match=r"has no array 'data/demo_1/act'; did you mean 'data/demo_1/acts'\?"):
        import_dataset(Recordings(env="crane:Crane-v0").open(Path("arms")), "arms-store")


def test_a_file_that_holds_nothing_is_named(crane):
    h5py = pytest.importorskip("h5py")
    (crane / "nothing").mkdir()
    with h5py.File(crane / "nothing/a.hdf5", "w") as file:
        file.create_group("data")
    with pytest.raises(ValueError, match="a.hdf5 holds no arrays, so no episode"):
        Recordings(env="crane:Crane-v0").open(Path("nothing"))


@pytest.mark.parametrize(
    ("shades", "doubts"),
    [
        ([(7, 8, 9), (8, 9, 9)], []),
        ([(7, 7, 7), (8, 8, 8)], ["pictures of 'observation' are grey; are they in the environment, too?"]),
        ([(7, 8, 9), (7, 8, 9)], ["pictures of 'observation' never change in 1 of 1 episodes; did the camera run?"]),
        ([(0, 1, 0), (1, 0, 1)], ["pictures of 'observation' hold nothing above 1 of 255 in 1 of 1 episodes; were they divided by 255?"]),
    ],
)
def test_pictures_that_look_wrong_are_to_be_checked(tmp_path, shades, doubts):
    task = TaskSpec.from_spaces("lab/seen", spaces.Box(0, 255, (16, 16, 3), np.uint8), spaces.Discrete(2), env_id="lab:Seen-v0")
    seen = np.zeros((2, 16, 16, 3), np.uint8) + np.array(shades, np.uint8)[:, None, None]
    with StoreWriter(tmp_path / "seen", [task]) as writer:
        writer.append(Episode(task, {"observation": seen}, {"action": np.zeros(2, int)}, np.zeros(2)))
    assert doubts_of(Store(tmp_path / "seen")) == [f"check: {doubt}" for doubt in doubts]


def test_a_number_that_the_environment_cannot_see_is_named_with_its_file(crane):
    (crane / "huge").mkdir()
    npz(crane / "huge", cart=np.full((T, 2), 1e299), hook=np.zeros((T, 1)), lamp=np.zeros(T, int), act=np.zeros((T, 1)))
    with pytest.raises(
        ValueError, match=r"^huge/run.npz: .* observation 'cart' at timestep 0 is 1e.299, which float32 cannot hold; repair the"
    ):
        import_dataset(Recordings(env="crane:Crane-v0").open(Path("huge")), "huge-store")


def test_a_discrete_field_that_was_saved_as_floating_point_is_read_where_it_is_whole(crane):
    (crane / "floats").mkdir()
    values = {"cart": np.zeros((T, 2)), "hook": np.zeros((T, 1)), "act": np.zeros((T, 1))}
    npz(crane / "floats", lamp=np.array([0, 1, 0, 1, 1, 0], float), **values)
    store = Store(import_dataset(Recordings(env="crane:Crane-v0").open(Path("floats")), "stores")["train"])
    lamp = store.episode(0).observations["lamp"]
    assert lamp.dtype == np.int64 and lamp.tolist() == [0, 1, 0, 1, 1, 0]
    for wrong, said in (
        (0.5, "is 0.5, expected a whole number"),
        (2.0, r"is 2, outside \[0, 1\]; the range of crane:Crane-v0 ends there, so repair it"),
    ):
        npz(crane / "floats", lamp=np.array([0, 1, wrong, 1, 1, 0]), **values)
        with pytest.raises(ValueError, match=f"'lamp' at timestep 2 {said}"):
            import_dataset(Recordings(env="crane:Crane-v0").open(Path("floats")), "stores-of-wrong")


def test_an_environment_that_always_fails_is_told_before_anything_is_trained(crane, capsys):
    dataset = Recordings(env="crane:Crane-v0").open(Path("recordings"))
    store = import_dataset(dataset, "stores")["train"]
    (crane / "crane.py").write_text(CRANE.replace("self.place, self.count = self.np_random.uniform(-1, 1), 0", "raise OSError('no crane')"))
    sys.modules.pop("crane"), gymnasium.registry.pop("Crane-v0"), envs.task.cache_clear()
    config = FewShotConfig(str(store), env="crane:Crane-v0", device="cpu")
    with pytest.raises(ValueError, match="all 20 episodes of random play failed; the first: OSError: no crane"):
        with_returns(open_demonstrations(config), config)


def test_an_import_at_once_needs_every_field_and_no_spec_beside_it(crane):
    npz(crane, "a run.npz", cart=np.zeros((T, 2)), lamp=np.zeros(T, int), act=np.zeros((T, 1)))
    with pytest.raises(
        ValueError, match=r"'hook' .* fits; 'gato data import recordings 'a run.npz' --env crane:Crane-v0 > spec.yaml' prints"
    ):
        Recordings(env="crane:Crane-v0").open(Path("a run.npz"))
    with pytest.raises(ValueError, match="both given"):
        Recordings(Path("spec.yaml"), "crane:Crane-v0").open(Path("recordings"))
