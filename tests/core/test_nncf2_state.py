"""Schedulers' and controllers' states as NNCF 2.x has them."""

import pytest

from nncf_ext.nncf2.states import nncf2_schedules
from nncf_ext.schedules import Clock

SCHEDULER = {"current_step": 99, "current_epoch": 4}


def test_clocks_of_nncf():
    assert Clock.from_json(SCHEDULER) == Clock(4, 99, -1, None)
    assert Clock.from_json({**SCHEDULER, "_steps_per_epoch": 20}) == Clock(4, 99, 19, 20)
    assert Clock.from_json({**SCHEDULER, "_steps_per_epoch": 24}) == Clock(4, 99, 3, 24)
    assert Clock.from_json({"current_step": -1, "current_epoch": -1}) == Clock()


def test_own_clocks_in_both_spellings():
    clock = Clock(4, 99, 19, 20)
    assert Clock.from_json(clock.to_json()) == clock
    assert Clock.from_json(dict(vars(clock))) == clock  # as checkpoints had it before
    assert (clock.to_json()["current_epoch"], clock.to_json()["current_step"]) == (4, 99)


@pytest.mark.parametrize("saved", [None, 3, {}, {"current_epoch": 4}, {"current_epoch": "4", "current_step": 1}, []])
def test_what_is_no_clock(saved):
    with pytest.raises(ValueError, match=r"expected what scheduler.get_state\(\) gave"):
        Clock.from_json(saved)


def test_states_are_told_apart():
    of_nncf = {"magnitude_sparsity": {"loss_state": None, "scheduler_state": SCHEDULER, "compression_stage": 1}}
    assert nncf2_schedules(of_nncf) == {"magnitude_sparsity": SCHEDULER}
    assert nncf2_schedules({"builder_state": {"magnitude_sparsity": {}}, "ctrl_state": of_nncf}) == {
        "magnitude_sparsity": SCHEDULER
    }
    with_former_name = {"experimental_quantization": of_nncf["magnitude_sparsity"]}
    assert nncf2_schedules(with_former_name) == {"quantization": SCHEDULER}
    ours = {"scheduler_state": Clock().to_json(), "algorithms": {"magnitude_sparsity": {"state": {}, "compression_stage": 0}}}
    assert nncf2_schedules(ours) is nncf2_schedules({"ctrl_state": ours}) is nncf2_schedules(None) is nncf2_schedules({}) is None
