"""Schedules: worked values, bounds, monotony."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncf_ext.schedules import Clock, exponential, exponential_with_bias, multistep, polynomial

levels = st.floats(0, 0.99)


def test_cubic_ramp_has_the_published_values():
    """Zhu & Gupta 2017: 0 -> 0.9 over 10 steps."""
    values = [polynomial(0, 0.9, t, 10, 3, True) for t in (2, 4, 6, 8, 10)]
    assert values == pytest.approx([0.4392, 0.7056, 0.8424, 0.8928, 0.9])


def test_exponential_midpoint():
    assert exponential(0, 0.9, 5, 10) == pytest.approx(0.6838, abs=1e-4)


def test_exponential_with_bias_goes_through_its_three_points():
    """From 0.1 to 0.5 over 16 epochs: 3/4 of 0.5 after an eighth of the way."""
    values = [exponential_with_bias(0.1, 0.5, epoch, 16) for epoch in (0, 2, 16, 20)]
    assert values == pytest.approx([0.1, 0.375, 0.5, 0.5])


def test_exponential_with_bias_by_hand():
    """From 0 the share is 3/4: 1 + z + ... + z^7 = 4/3, so z is 1/4 but for z^8. Another eighth on the distance to b quarters."""
    values = [exponential_with_bias(0, 0.8, epoch, 8) for epoch in (1, 2, 3)]
    assert values == pytest.approx([0.6, 0.75, 0.7875], abs=1e-4)


@given(target=st.floats(0.01, 0.99), share=st.floats(0, 0.7), target_epoch=st.integers(1, 50), epoch=st.integers(0, 60))
def test_exponential_with_bias_rises_to_its_target(target, share, target_epoch, epoch):
    level = exponential_with_bias(share * target, target, epoch, target_epoch)
    assert share * target - 1e-9 <= level <= exponential_with_bias(share * target, target, epoch + 1, target_epoch) + 1e-9
    assert exponential_with_bias(share * target, target, target_epoch, target_epoch) == pytest.approx(target)


def test_exponential_with_bias_is_steep_first_or_not_at_all():
    with pytest.raises(ValueError, match="expected less than 5/7 of the target 0.7"):
        exponential_with_bias(0.5, 0.7, 1, 10)
    assert exponential_with_bias(0, 0, 1, 10) == 0 and exponential_with_bias(0.1, 0.5, 0, 0) == 0.5


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
    assert Clock.from_json(clock.to_json()) == clock
