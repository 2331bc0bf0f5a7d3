"""States of NNCF 2.x's checkpoints, and that schedules go on from them, whatever the framework.

created(algorithm, state, **entry): a (controller, model) of two convolutions, of which the first has 16 filters.
"""

from __future__ import annotations

import numpy as np
import pytest


def state_of_nncf(algorithm, epoch, step, **scheduler):
    saved = {"loss_state": None, "scheduler_state": {"current_step": step, "current_epoch": epoch, **scheduler}}
    return {"builder_state": {algorithm: {}}, "ctrl_state": {algorithm: {**saved, "compression_stage": 1}}}


def check_sparsity_goes_on(created):
    entry = {"params": {"sparsity_target": 0.9, "sparsity_target_epoch": 9, "power": 1, "sparsity_freeze_epoch": 20}}
    ctrl, _ = created("magnitude_sparsity", state_of_nncf("magnitude_sparsity", 4, 99), **entry)
    assert (ctrl.scheduler.current_epoch, ctrl.scheduler.current_step) == (4, 99)
    assert ctrl.get_state()["algorithms"]["magnitude_sparsity"]["state"]["level"] == pytest.approx(0.4)
    assert ctrl.compression_stage().name == "PARTIALLY_COMPRESSED"
    ctrl.scheduler.epoch_step()
    assert ctrl.compression_rate == pytest.approx(0.5, abs=2e-3)

    other, _ = created("magnitude_sparsity", **entry)
    other.load_state(state_of_nncf("magnitude_sparsity", 4, 99)["ctrl_state"])
    third, _ = created("magnitude_sparsity", **entry)
    third.scheduler.load_state({"current_step": 99, "current_epoch": 4})
    for controller in (other, third):
        controller.scheduler.epoch_step()
        assert controller.get_compression_state() == ctrl.get_compression_state()


def check_other_algorithms_go_on(created):
    pruning, _ = created(
        "filter_pruning", state_of_nncf("filter_pruning", 3, 30), params={"pruning_steps": 4, "prune_first_conv": True}
    )
    assert pruning.pruning_level == pytest.approx(0.5) and pruning.compression_stage().name == "FULLY_COMPRESSED"
    staged = {"activations_quant_start_epoch": 3, "weights_quant_start_epoch": 5}
    quantizers, _ = created("quantization", state_of_nncf("quantization", 3, 30), params=staged)
    assert quantizers.get_state()["algorithms"]["quantization"]["state"]["enabled"] == {"weights": False, "activations": True}
    adaptive = state_of_nncf("rb_sparsity", 3, 30, num_bad_epochs=1, current_sparsity_level=0.25)
    rb, _ = created("rb_sparsity", adaptive, params={"schedule": "adaptive", "patience": 3})
    assert {"level": 0.25, "bad_epochs": 1}.items() <= rb.get_state()["algorithms"]["rb_sparsity"]["state"].items()
    assert all(rb.variable_values(edit)["level"] == np.float32(0.25) for edit in rb.plan)
