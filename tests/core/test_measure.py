"""`benchmarks/measure.py`, on a clock that only the steps move."""

import gc

import pytest

from benchmarks.measure import interleaved, paired_ratio


@pytest.fixture(autouse=True)
def only_new_objects_are_collected():
    """A collection of everything that a whole run of the tests has loaded takes half a second."""
    gc.freeze()
    yield
    gc.unfreeze()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def step(self, name: str, *seconds: float):
        """A step that takes the next of `seconds` at every call."""
        durations = iter(seconds)

        def run() -> None:
            self.order.append(name)
            self.now += next(durations)

        return run


def test_rounds_are_timed_step_by_step_and_warm_up_is_left_out():
    clock = Clock()
    steps = {"float": clock.step("float", 90, 1, 2, 4), "quantized": clock.step("quantized", 80, 3, 5, 6)}
    assert interleaved(steps, rounds=3, warmup=1, clock=clock) == {"float": [1, 2, 4], "quantized": [3, 5, 6]}


def test_the_order_turns_and_every_round_runs_every_step_once():
    clock = Clock()
    names = ("a", "b", "c")
    interleaved({name: clock.step(name, *[1] * 4) for name in names}, rounds=3, warmup=1, clock=clock)
    rounds = ["".join(clock.order[start : start + 3]) for start in range(0, 12, 3)]
    assert rounds == ["cab", "abc", "bca", "cab"]


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_collection_waits_and_is_as_before_afterwards(collecting):
    seen = []
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        interleaved({"step": lambda: seen.append(gc.isenabled())}, rounds=2)
        assert seen == [False] * 3
        assert gc.isenabled() is collecting

        with pytest.raises(ZeroDivisionError):
            interleaved({"step": lambda: 1 / 0}, rounds=1)
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()


def test_ratios_are_taken_within_a_round():
    # The machine is ten times slower in the third round: the medians' ratio would be 3 / 2, each round's is 2, 1.5, 2, 3, 1.
    ratio = paired_ratio([2, 3, 40, 3, 2], [1, 2, 20, 1, 2])
    assert (ratio.lower, ratio.median, ratio.upper) == (1.5, 2, 2)


def test_one_round_is_its_own_median():
    ratio = paired_ratio([3], [2])
    assert (ratio.lower, ratio.median, ratio.upper) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(("times", "baseline"), [([], []), ([1.0], [1.0, 2.0])])
def test_ratios_need_pairs(times, baseline):
    with pytest.raises(ValueError, match="as many times as baselines"):
        paired_ratio(times, baseline)
