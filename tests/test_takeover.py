"""Taking over from a policy while it acts: who acted is kept timestep by timestep, and fine-tuning reads what a human did."""

import os

import numpy as np
import pytest

from gato import envs
from gato.cli import main
from gato.data.store import Store, StoreWriter
from gato.eval.corrector import HOLD_SECONDS, ExpertCorrector, Keyboard, keys_of
from gato.eval.takeover import correct, pieces
from gato.learners.folder import learned
from gato.spec import FieldSpec, Modality, TaskSpec


@pytest.fixture(scope="module")
def wrong():
    """A policy of the corridor that always goes left, as its one demonstration did, and the task."""
    task = envs.task("toy/corridor")
    (seen,), (step,) = task.observations, task.actions
    shown = _episode(task, {seen.name: np.array([0, 1])}, {step.name: np.array([0, 0])})
    return learned("retrieve", task, [shown])


def _episode(task, observations, actions):
    from gato.episode import Episode

    return Episode(task, observations, actions, np.zeros(len(next(iter(actions.values()))), np.float32))


class Script:
    """Says what is written for each timestep; `kept`: after which of them the last ones are wanted."""

    def __init__(self, actions: dict[int, int], kept: tuple[int, ...] = ()) -> None:
        self.actions, self.kept, self.seen = actions, kept, []

    def begin(self, env) -> None:
        self.at = -1

    def __call__(self, env, observation, action):
        self.at += 1
        self.seen.append(int(action))
        return self.actions.get(self.at)

    def wants_kept(self) -> bool:
        return self.at in self.kept


def test_pieces_are_cut_where_hands_change_and_what_is_not_kept_is_left_out(walk):
    episode = walk([0, 0, 0, 1, 1, 0], [1, 1, 1, 0, 0, 1], terminated=True)
    human, kept = np.array([0, 1, 1, 0, 0, 0], bool), np.array([1, 1, 1, 1, 0, 1], bool)
    found = pieces(episode, human, kept)
    assert [(p.behaviour, p.num_timesteps, p.parameters["starts"]) for p in found] == [
        ("learner", 1, 0), ("human", 2, 1), ("learner", 1, 3), ("learner", 1, 5),
    ]  # fmt: skip
    assert [p.terminated for p in found] == [False, False, False, True]


def test_the_store_holds_who_did_what(wrong, tmp_path):
    """The human goes right at the first two timesteps; the policy would have gone left everywhere."""
    task, script = wrong.acting.task, Script({0: 1, 1: 1})
    with StoreWriter(tmp_path / "pieces", [task]) as writer:
        (found,) = correct(wrong.policy(task), task, script, 1, sink=writer.append)
    store = Store(tmp_path / "pieces")
    first = store.episode(0)
    assert (first.behaviour, first.actions[task.actions[0].name].tolist()) == ("human", [1, 1][: first.num_timesteps])
    assert found.num_human == first.num_timesteps and found.num_takeovers == 1 and set(script.seen) == {0}
    assert sum(store.episode(i).num_timesteps for i in range(store.num_episodes)) == found.num_timesteps


def test_only_the_last_timesteps_before_a_wish_are_kept(wrong):
    task = wrong.acting.task
    (found,) = correct(wrong.policy(task), task, Script({}, kept=(3,)), 1, keep_last=2)
    assert found.num_timesteps > 4 and [(p.parameters["starts"], p.num_timesteps) for p in found.pieces] == [(2, 2)]


def test_an_expert_takes_over_where_the_policy_keeps_doing_something_else(wrong):
    task = wrong.acting.task
    patient = ExpertCorrector(task, envs.expert(task), patience=2, hold=3)
    results = correct(wrong.policy(task), task, patient, 4)
    assert all(r.pieces[0].behaviour == "learner" and r.pieces[0].num_timesteps == 1 for r in results)
    assert all(r.num_takeovers >= 1 for r in results)
    again = correct(wrong.policy(task), task, patient, 4)
    assert [(r.seed, r.total_reward) for r in again] == [(r.seed, r.total_reward) for r in results]


def test_a_corrected_policy_is_better_than_the_one_that_was_corrected(wrong, tmp_path):
    """From the shell: the clone of what the expert did in its place goes right."""
    wrong.save(tmp_path / "wrong")
    options = ["--by", "expert", "--episodes", "4", "--patience", "1", "--out", str(tmp_path / "store")]
    assert main(["correct", str(tmp_path / "wrong"), *options]) == 0
    store, task = Store(tmp_path / "store"), wrong.acting.task
    human = [store.episode(i) for i in np.flatnonzero(store.behaviours == "human")]
    better = learned("retrieve", task, human)

    from gato.eval.control import evaluate

    means = [evaluate(agent.policy(task), 6, num_envs=6)["mean"] for agent in (wrong, better)]
    assert means[1] > means[0]


# -- the keyboard -----------------------------------------------------------------------------------------


@pytest.fixture
def clock():
    return [0.0]


def test_keys_take_over_push_and_hand_back(robot, clock):
    """The motors go from -1 to 1 and from 0 to 10."""
    keys = iter([" ", "d", "", "s", " d", ""])
    board = Keyboard(robot, strength=0.5, read=lambda: next(keys), now=lambda: clock[0])
    own = {"motors": np.zeros(2, np.float32)}

    def said():
        found = board(None, None, own)
        clock[0] += 0.2
        return None if found is None else found["motors"].tolist() if isinstance(found, dict) else found.tolist()

    assert said() == [0.0, 5.0]  # nothing is pressed: the middle
    assert said() == [0.5, 5.0]
    assert said() == [0.5, 5.0]  # 0.2 s later it is still down
    clock[0] += HOLD_SECONDS
    assert said() == [0.0, 2.5]
    assert said() is None and said() is None


def test_digits_are_the_values_of_a_discrete_action_and_k_keeps(corridor, clock):
    keys = iter([" 1", "k", "7", ""])
    board = Keyboard(corridor, read=lambda: next(keys), now=lambda: clock[0])
    assert int(board(None, None, 0)) == 1 and not board.wants_kept()
    assert int(board(None, None, 0)) == 1 and board.wants_kept() and not board.wants_kept()
    assert int(board(None, None, 0)) == 1  # there is no choice 7
    clock[0] += 2 * HOLD_SECONDS
    assert int(board(None, None, 0)) == 0


def test_tasks_that_have_more_parts_than_keys_are_refused(robot):
    many = TaskSpec("toy/many", (robot.observations[2], FieldSpec("u", Modality.CONTINUOUS, "action", (8,), low=(-1.0,), high=(1.0,))))
    with pytest.raises(ValueError, match="has more parts than there are keys"):
        Keyboard(many, read=str)
    with pytest.raises(ValueError, match="has 2 action fields"):
        Keyboard(TaskSpec("toy/two", (*many.fields, robot.actions[0])), read=str)


def test_keys_are_read_without_waiting():
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as file:
        read = keys_of(file)
        assert read() == ""
        os.write(write_end, b"a d")
        assert (read(), read()) == ("a d", "")
        os.close(write_end)
        assert read() == ""


def test_bad_options_are_one_line(wrong, tmp_path, capsys):
    wrong.save(tmp_path / "wrong")
    assert main(["correct", str(tmp_path / "wrong"), "--out", str(tmp_path / "s"), "--by", "expert", "--last", "30"]) == 2
    assert "an expert presses none" in capsys.readouterr().err
    assert main(["correct", str(tmp_path / "wrong"), "--out", str(tmp_path / "s")]) == 2  # the standard input of a test is none
    assert "the keyboard needs a terminal" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
