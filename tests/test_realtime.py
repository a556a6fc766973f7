"""Acting at a rate: what is late is counted, and not caught up."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="needs the extra 'gym'")

from gato import envs
from gato.agent import Agent
from gato.envs.watched import Watched
from gato.eval.control import _overflow, evaluate
from gato.eval.realtime import Pace
from gato.eval.rollout import rollout
from gato.eval.settings import EvalConfig

CORRIDOR = envs.task("toy/corridor")


class Hourglass:
    """A clock that stands still but for those who sleep or work."""

    def __init__(self):
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def pass_(self, seconds: float) -> None:
        self.time += seconds


class Thinker:
    """Goes right after thinking for some seconds of an hourglass; `times` repeat."""

    def __init__(self, glass: Hourglass, *times: float):
        self.glass, self.times, self.count = glass, times, 0

    def reset(self, num_streams, demonstrations=()):
        pass

    def act(self, observation, reward, first, streams):
        self.glass.pass_(self.times[self.count % len(self.times)])
        self.count += 1
        return {"action": np.full(len(streams), 1)}


def paced(rate: float, *times: float) -> Pace:
    glass = Hourglass()
    pace = Pace(rate, glass.now, glass.pass_)
    rollout(Thinker(glass, *times), CORRIDOR, 20, num_envs=1, pace=pace)
    return pace


def test_a_fast_policy_misses_no_deadline():
    found = paced(20, 0.01).report()
    assert found.steps > 20 and found.missed == 0 and found.worst_lateness == 0
    assert found.p50 == found.p99 == pytest.approx(0.01)


def test_a_slow_policy_misses_every_deadline():
    found = paced(20, 0.08).report()
    assert found.missed == found.steps and found.worst_lateness == pytest.approx(0.03)


def test_a_single_late_step_is_one_miss_and_the_next_tick_is_a_whole_period():
    glass = Hourglass()
    pace = Pace(10, glass.now, glass.pass_)
    started = []
    for taken in (0.02, 0.25, 0.02):
        pace.wait()
        started.append(round(glass.time - 100, 6))
        glass.pass_(taken)
        pace.done()
    assert started == [0.0, 0.1, 0.4]  # 0.1 + 0.25 is past 0.2 and 0.3
    assert (pace.report().missed, round(pace.report().worst_lateness, 6)) == (1, 0.15)


def test_a_slow_environment_misses_on_the_real_clock(monkeypatch):
    from gato.envs.toy import Corridor

    step = Corridor.step
    monkeypatch.setattr(Corridor, "step", lambda env, action: time.sleep(0.03) or step(env, action))
    pace = Pace(50)
    rollout(Thinker(Hourglass(), 0.0), CORRIDOR, 3, num_envs=1, pace=pace)
    assert pace.report().missed == pace.report().steps > 0 and pace.report().worst_lateness >= 0.01


def test_a_rate_is_held_on_the_real_clock():
    pace, started = Pace(100), time.monotonic()
    rollout(Thinker(Hourglass(), 0.0), CORRIDOR, 5, num_envs=1, pace=pace)
    assert time.monotonic() - started >= (pace.report().steps - 5) / 100  # an episode's first step need not wait


def test_an_evaluation_in_real_time_reports_its_deadlines(make_gato, tokenizer):
    from gato.policy import GatoPolicy

    row = evaluate(GatoPolicy(make_gato(), tokenizer, CORRIDOR), episodes=2, rate=500)
    assert row["deadlines"]["rate"] == 500 and row["deadlines"]["steps"] >= 2


def test_a_rate_of_nothing_and_of_many_environments_is_refused():
    with pytest.raises(ValueError, match="the rate is 0 Hz; give steps per second above zero"):
        Pace(0)
    with pytest.raises(ValueError, match="a rate of 20 Hz is held in one environment, not in 8"):
        rollout(Thinker(Hourglass(), 0.0), CORRIDOR, 3, num_envs=8, pace=Pace(20))


def test_a_watched_call_gives_and_raises_what_the_function_does():
    watched = Watched(5)
    assert watched(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        watched(divmod, 1, 0)
    watched.end()


def test_of_several_calls_those_after_one_that_hangs_are_never_begun():
    hangs, begun = threading.Event(), []
    watched = Watched(0.1)
    answers = watched.all([(divmod, (7, 2)), (divmod, (1, 0)), (hangs.wait, (20,)), (begun.append, (1,))])
    assert [type(answer.error) for answer in answers] == [type(None), ZeroDivisionError, TimeoutError]
    assert answers[0].get() == (3, 1) and [answer.is_late for answer in answers] == [False, False, True]
    hangs.set()  # it comes back, too late
    ended = threading.Event()
    watched.end(ended.set)
    assert ended.wait(20) and not begun


def test_at_a_rate_a_full_context_rolls_where_it_can(make_gato, tokenizer):
    def chosen(model=None, memory=None, **settings) -> str:
        agent = Agent(model or make_gato(), tokenizer, {CORRIDOR.name: replace(CORRIDOR, memory=memory)})
        return _overflow(agent, CORRIDOR, EvalConfig(**settings))

    assert chosen(rate=20) == "rolling" and chosen() == "rebuild"
    assert chosen(memory=3, rate=20) == chosen(rate=20, memory=2) == chosen(make_gato("learned"), rate=20) == "rebuild"
