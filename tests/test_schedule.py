"""How many updates fit into a run's seconds: the number follows the clock, whatever the speed test said."""

from itertools import count, pairwise

import pytest

from gato.train.optim import learning_rate
from gato.train.recipe import OptimConfig
from gato.train.schedule import Schedule


def run_of(schedule: Schedule, pace) -> tuple[int, float, list[int]]:
    """Updates that take `pace(step)` seconds each: how many there were, how long all took, and the totals they went by."""
    elapsed, totals = 0.0, []
    for step in count():
        totals.append(schedule.follow(step, elapsed))
        elapsed += pace(step)
        if step + 1 == totals[-1]:
            return step + 1, elapsed, totals


@pytest.mark.parametrize("planned", [20, 100, 500])
def test_a_wrong_speed_test_is_put_right_by_the_clock(planned):
    steps, elapsed, _ = run_of(Schedule(planned, seconds=100), lambda step: 1.0)
    assert steps == pytest.approx(100, abs=1) and elapsed == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("busy", [range(50, 10**6), range(90, 10**6), range(20, 40)])
def test_a_process_that_takes_the_machine_changes_how_many_updates_there_are_and_not_the_time(busy):
    steps, elapsed, _ = run_of(Schedule(100, seconds=100), lambda step: 5.0 if step in busy else 1.0)
    assert steps < 100 and elapsed == pytest.approx(100, rel=0.05)


def test_a_steady_run_keeps_its_number_and_so_its_learning_rates():
    _, _, totals = run_of(Schedule(100, seconds=100), lambda step: 1.002)
    assert set(totals) == {100}


def test_the_learning_rate_reaches_its_end_when_the_time_does():
    steps, _, totals = run_of(Schedule(100, seconds=100), lambda step: 1.0 if step < 40 else 2.0)
    optim = OptimConfig(warmup_steps=0, learning_rate=1.0, final_ratio=0.1)
    rates = [learning_rate(optim, step, total) for step, total in enumerate(totals)]
    assert steps == pytest.approx(70, abs=2) and rates[-1] == pytest.approx(0.1, abs=0.01)
    assert max(a - b for a, b in pairwise(rates)) < 0.05  # no cliff on the way


def test_one_long_update_is_all_that_a_short_time_holds():
    assert run_of(Schedule(50, seconds=1), lambda step: 30.0)[0] == 2  # how long one takes is known after the first


def test_updates_that_are_repeated_go_by_the_numbers_they_went_by():
    steps, _, totals = run_of(Schedule(100, seconds=100), lambda step: 1.0 if step < 40 else 2.0)
    lines = [{"step": step + 1, "steps": total} for step, total in enumerate(totals)]
    again = Schedule(7, seconds=100, lines=lines, done=30)
    assert again.total == totals[29]
    assert [again.follow(step, elapsed=1000.0) for step in range(30, steps)] == totals[30:]


def test_a_number_that_was_asked_for_knows_no_clock():
    schedule = Schedule(100)
    assert schedule.follow(50, elapsed=1e9) == 100 and schedule.updates(3) == range(3, 100)
