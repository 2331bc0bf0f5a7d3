"""The students of `results.py` in PyTorch, in a process of their own: `python -m benchmarks.results_students_torch SEED`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from nncf_ext_torch import create_compressed_model
from nncf_ext_torch.demo import DigitsNet
from torch import nn

from benchmarks.contest import Result, report_result
from benchmarks.results_students import (
    CUT_STEPS,
    EPOCH,
    FALL,
    FALLS,
    RATE,
    SMALL,
    STEPS,
    STUDENTS,
    TEACHER_STEPS,
    UNKNOWN,
    Batches,
    Student,
    cut,
    left,
)
from nncf_ext import NNCFConfig

INPUT = {"sample_size": [1, 1, 8, 8]}


def train(model: nn.Module, batches: Iterable[tuple[np.ndarray, np.ndarray]], steps: int, ctrl: Any = None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(share * steps) for share in FALLS], FALL)
    model.train()
    for step, (images, labels) in enumerate(batches):
        if ctrl is not None:
            if step % EPOCH == 0:
                ctrl.scheduler.epoch_step()
            ctrl.scheduler.step()
        optimizer.zero_grad()
        outputs = model(torch.from_numpy(images[:, None]))
        loss = nn.functional.cross_entropy(outputs, torch.from_numpy(labels), ignore_index=UNKNOWN)
        (loss if ctrl is None else ctrl.total_loss(loss)).backward()
        optimizer.step()
        schedule.step()


def accuracy(model: nn.Module, data: Any) -> float:
    with torch.no_grad():
        outputs = model.eval()(torch.from_numpy(data.test_images[:, None]))
    return float((outputs.argmax(1).numpy() == data.test_labels).mean())


def graduate(student: Student, teacher: nn.Module, batches: Batches, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    ctrl, model = create_compressed_model(DigitsNet(SMALL), NNCFConfig.from_dict(student.config(INPUT)), teacher=teacher)
    train(model, batches.of(student), STEPS, ctrl)
    plain = ctrl.strip(quantizers=False)
    weights = [parameter for parameter in plain.parameters() if parameter.ndim > 1]
    if student.share is not None:
        kept = cut([w.detach().numpy() for w in weights], student.share)
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(torch.from_numpy(value))
        config = NNCFConfig.from_dict(student.config_after_the_cut(INPUT))
        ctrl, model = create_compressed_model(plain, config, teacher=teacher)
        train(model, batches.of(student, CUT_STEPS), CUT_STEPS, ctrl)
        plain = ctrl.strip(do_copy=False)
    return {"accuracy": accuracy(plain, batches.data), "left": left([w.detach().numpy() for w in weights])}


def results(seed: int) -> Result:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    batches, teacher = Batches(seed), DigitsNet()
    train(teacher, batches.of_teacher(), TEACHER_STEPS)
    found = {name: graduate(student, teacher.eval(), batches, seed) for name, student in STUDENTS.items()}
    return {"teacher": accuracy(teacher, batches.data), "students": found}


if __name__ == "__main__":
    report_result(lambda: results(int(sys.argv[1])))
