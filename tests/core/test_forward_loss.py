"""Who trains with the algorithms' loss of a forward: one of three, once."""

import threading

import pytest

from nncf_ext.forward_loss import ForwardLoss


def made(task_weight=1.0):
    values = iter(range(1, 100))
    return ForwardLoss(lambda: next(values), task_weight)


def test_nobody_has_it_before_a_training_forward_but_compute_loss_and_loops():
    loss = made()
    assert loss.for_losses() is None
    loss.forward(training=False)
    assert loss.for_losses() is None and loss.taken is None
    loss.claim()
    assert loss.for_compute_loss() == 1
    assert made().for_loop()


def test_losses_may_be_read_again_and_are_made_once():
    loss = made()
    loss.forward(True)
    assert (loss.taken, loss.for_losses(), loss.for_losses(), loss.taken) == ("unseen", 1, 1, "losses")
    assert not loss.for_loop()
    loss.forward(True)
    assert loss.for_losses() == 2


def test_the_loop_has_it_first():
    loss = made()
    loss.forward(True)
    assert loss.for_loop() and loss.for_loop()
    loss.claim()
    assert (loss.for_compute_loss(), loss.for_losses(), loss.taken) == (None, None, "loop")


def test_compute_loss_sums_losses_itself():
    loss = made()
    loss.forward(True)
    loss.claim()
    assert loss.for_losses() is None, "`compute_loss` is going to add it"
    assert loss.for_compute_loss() == 1 and not loss.for_loop()


def test_after_the_optimizers_step_it_is_for_show():
    loss = made()
    loss.forward(True)
    assert loss.for_losses() == 1
    loss.spend()
    assert loss.for_losses() is None and loss.for_loop() and loss.taken == "losses"


def test_who_sums_losses_does_not_know_of_the_tasks_weight():
    loss = made(task_weight=0.5)
    loss.forward(True)
    assert loss.for_losses() is None and loss.taken == "unseen"


def test_threads_have_forwards_of_their_own():
    loss, seen = made(), []
    loss.forward(True)
    thread = threading.Thread(target=lambda: seen.append(loss.for_losses()))
    thread.start()
    thread.join()
    assert seen == [None] and loss.for_losses() == pytest.approx(1)
