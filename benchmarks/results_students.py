"""What the students of `results.py` have in common: their data, their configs, the table of what came out.

A large network knows all labels; small ones know four images of each digit. Beside these they may see the other images without
labels, where there is a teacher to say what it makes of them. Every student takes the same steps on the same labelled images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nncf_ext.tools import demo

SMALL = (8, 16, 24, 32)  # widths of the students' network, a quarter to a sixth of the teacher's
LABELS, LABELLED, UNLABELLED = 4, 32, 32  # labelled images of each digit; images of both kinds in a batch
STEPS, TEACHER_STEPS, EPOCH = 400, 320, 20  # EPOCH: steps after which the schedules are told of another one
CUT_STEPS = 100  # that a network takes after its smallest weights were cut
RATE, FALL = 0.05, 0.3  # the learning rate, and what it is multiplied with when the shares FALLS of the steps are done
FALLS = (0.6, 0.8)
FALL_EPOCHS = [round(share * STEPS / EPOCH) for share in FALLS]
SHARE = 0.05  # of weights that may stay where networks are compared at one size
UNKNOWN = -1  # the label of an image without one

MATCHING = {"type": "kl", "temperature": 4.0}
DISTILLATION = {"algorithm": "knowledge_distillation", **MATCHING, "task_weight": 0.3}
REGULARIZATION = {  # a proximal step is as large as one of the optimizer: it falls with the learning rate
    "type": "l1",
    "weight": 1500.0,
    "proximal_step": RATE,
    "warmup_epochs": 2,
    "schedule": "multistep",
    "multistep_steps": FALL_EPOCHS,
    "multistep_factors": [1, FALL, FALL**2],
}


TERM = {**MATCHING, "weight": 1.0}
TAUGHT = {"algorithm": "corad", "distillation": TERM}


@dataclass(frozen=True)
class Student:
    """How one is trained. unlabelled: whether it sees images without labels too. share: of its weights that stay, the largest of
    all layers together, when the training is through; then come CUT_STEPS more, with a teacher if it had one. None: all stay."""

    compression: tuple[Mapping[str, Any], ...] = ()
    unlabelled: bool = False
    all_labels: bool = False
    share: float | None = None

    def config(self, input_info: Any) -> dict[str, Any]:
        return {"input_info": input_info, "compression": list(self.compression)}

    def config_after_the_cut(self, input_info: Any) -> dict[str, Any]:
        return {
            "input_info": input_info,
            "compression": [{"algorithm": "const_sparsity"}, *([TAUGHT] if self.unlabelled else [])],
        }


MAGNITUDE = {
    "algorithm": "magnitude_sparsity",
    "sparsity_init": 0.2,
    "params": {
        "power": 3,
        "sparsity_target": 1 - SHARE,
        "sparsity_target_epoch": FALL_EPOCHS[0],
        "sparsity_freeze_epoch": FALL_EPOCHS[0],
    },
}
STUDENTS = {
    "alone": Student(),
    "distilled": Student((DISTILLATION,), unlabelled=True),
    "alone, all labels": Student(all_labels=True),
    "regulariser": Student(({"algorithm": "corad", "regularization": REGULARIZATION},), share=SHARE),
    "distillation": Student((TAUGHT,), unlabelled=True, share=SHARE),
    "CORAD": Student(
        ({"algorithm": "corad", "regularization": REGULARIZATION, "distillation": TERM},), unlabelled=True, share=SHARE
    ),
    "distilled + magnitude sparsity": Student((DISTILLATION, MAGNITUDE), unlabelled=True, share=SHARE),
}
HEADER = ("", "accuracy: mean", "worst", "% of weights", "excess errors over the teacher", "target")


class Batches:
    """Images (n, 8, 8) and labels, the same in both frameworks, moved by up to a pixel each way."""

    def __init__(self, seed: int):
        self.data = demo.load_digits()
        self._seed = seed
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self.data.train_labels))
        digits = [order[self.data.train_labels[order] == digit][:LABELS] for digit in range(10)]
        self._labelled = np.concatenate(digits)

    def of(self, student: Student, steps: int = STEPS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng((self._seed, 1))
        known = np.arange(len(self.data.train_labels)) if student.all_labels else self._labelled
        for _ in range(steps):
            rows, others = rng.choice(known, LABELLED), rng.choice(len(self.data.train_labels), UNLABELLED)
            labels = self.data.train_labels[rows]
            if student.unlabelled:
                rows, labels = np.concatenate([rows, others]), np.concatenate([labels, np.full(UNLABELLED, UNKNOWN)])
            yield moved(self.data.train_images[rows], rng), labels

    def of_teacher(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng((self._seed, 2))
        for _ in range(TEACHER_STEPS):
            rows = rng.choice(len(self.data.train_labels), 64, replace=False)
            yield moved(self.data.train_images[rows], rng), self.data.train_labels[rows]


def moved(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image by -1, 0 or 1 pixels in both directions."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    down, right = rng.integers(0, 3, (2, len(images)))
    return np.stack([image[y : y + 8, x : x + 8] for image, y, x in zip(padded, down, right, strict=True)])


def cut(weights: Sequence[np.ndarray], share: float) -> list[np.ndarray]:
    """The weights without all but the largest `share` of them."""
    sizes = np.concatenate([np.abs(w).ravel() for w in weights])
    smallest = np.sort(sizes)[-round(share * len(sizes))]
    return [w * (np.abs(w) >= max(smallest, np.finfo(np.float32).tiny)) for w in weights]


def left(weights: Sequence[np.ndarray]) -> float:
    """Percentage of weights that are not zero."""
    return 100 * sum(int(np.count_nonzero(w)) for w in weights) / sum(w.size for w in weights)


def lines(seeds: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """seeds: for each {"teacher": accuracy, "students": {name: {"accuracy", "left"}}}."""
    teacher = [seed["teacher"] for seed in seeds]

    def of(name: str, key: str = "accuracy") -> list[float]:
        return [seed["students"][name][key] for seed in seeds]

    def excess(name: str) -> float:
        return 100 * float(np.mean(teacher) - np.mean(of(name)))

    def above(name: str, *others: str) -> str:
        best = max(float(np.mean(of(other))) for other in others)
        return f"above either term alone: {'met' if np.mean(of(name)) > best else 'missed'}"

    targets: dict[str, Callable[[], str]] = {
        "distilled": lambda: f"half of alone: {'met' if excess('distilled') <= excess('alone') / 2 else 'missed'}",
        "CORAD": lambda: above("CORAD", "regulariser", "distillation"),
    }
    rows = [["teacher", f"{100 * np.mean(teacher):.2f}", f"{100 * min(teacher):.2f}", "100", "", ""]]
    for name in STUDENTS:
        found = of(name)
        rows.append(
            [
                name,
                f"{100 * np.mean(found):.2f}",
                f"{100 * min(found):.2f}",
                f"{np.mean(of(name, 'left')):.1f}",
                f"{excess(name):.2f}",
                targets[name]() if name in targets else "",
            ]
        )
    return rows
