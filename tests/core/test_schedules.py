"""Schedules: worked values, bounds, monotony."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncf_ext.schedules import Clock, exponential, multistep, polynomial

levels = st.floats(0, 0.99)


def test_cubic_ramp_has_the_published_values():
    """Zhu & Gupta 2017: 0 -> 0.9 over 10 steps."""
    values = [polynomial(0, 0.9, t, 10, 3, True) for t in (2, 4, 6, 8, 10)]
    assert values == pytest.approx([0.4392, 0.7056, 0.8424, 0.8928, 0.9])


def test_exponential_midpoint():
    assert exponential(0, 0.9, 5, 10) == pytest.approx(0.6838, abs=1e-4)


def test_multistep_changes_at_the_boundary():
    assert [multistep([2, 4], [0.1, 0.3, 0.5], e) for e in (0, 1, 2, 3, 4, 9)] == [0.1, 0.1, 0.3, 0.3, 0.5, 0.5]


@pytest.mark.parametrize("schedule", [lambda *a: polynomial(*a, 0.9, True), lambda *a: polynomial(*a, 0.9, False), exponential])
@given(initial=levels, target=levels, target_epoch=st.integers(1, 50), epoch=st.floats(0, 100))
def test_level_stays_between_its_ends_and_arrives(schedule, initial, target, target_epoch, epoch):
    low, high = sorted((initial, target))
    if initial > target and schedule is exponential:
        return  # a falling level is no use of the exponential rule
    level = schedule(initial, target, epoch, target_epoch)
    assert low - 1e-9 <= level <= high + 1e-9
    assert schedule(initial, target, target_epoch, target_epoch) == pytest.approx(target)


def test_target_epoch_zero_is_the_target_at_once():
    assert polynomial(0.1, 0.6, 0, 0, 3, True) == 0.6 and exponential(0.1, 0.6, 0, 0) == 0.6


def test_clock_measures_the_length_of_an_epoch():
    clock = Clock().next_epoch()
    for _ in range(5):
        clock = clock.next_step()
    clock = clock.next_epoch()
    assert (clock.epoch, clock.step, clock.steps_per_epoch) == (1, 4, 5)
    assert clock.next_step().next_step().progress(5) == pytest.approx(1.2)
    assert Clock(**clock.to_json()) == clock
