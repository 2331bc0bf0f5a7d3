"""What a student is to have of its teacher: differences of outputs and of features, over tokens that count.

Functions of one pair of arrays take the array namespace `xp` first and give a scalar. `valid`, where there is one, is a boolean
array over the positions (all axes but the last): the mean is over these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nncf_ext.config.knowledge_distillation import OutputMatching
from nncf_ext.distillation.outputs import Outputs
from nncf_ext.distillation.teacher_cache import CachedAnswer, TeacherCache
from nncf_ext.errors import ConfigError

SMALLEST_NORM = 1e-12  # an attention map of zeros stays zero
_NO_CLASS = -1e30  # a logarithm of no probability at all
_TINY = 1e-30  # x log x is zero where x is


@dataclass(frozen=True)
class ValidPositions:
    """An extra struct of a config: which positions of an output are tokens, for distillation.

    of(inputs, outputs): inputs by name, the student's outputs; a boolean array of the shape of the outputs without its last axis.
    """

    of: Callable[[Mapping[str, Any], Sequence[Any]], Any]


def soft_cross_entropy(xp: Any, student: Any, teacher: Any, temperature: float, valid: Any = None) -> Any:
    """T^2 * mean over all positions of -sum_c softmax(teacher/T)_c * log_softmax(student/T)_c; classes on the last axis.

    T^2 keeps the gradient's scale when T changes (Hinton et al. 2015, sec. 2.1). By a position's scores the gradient is
    T * (softmax(student/T) - softmax(teacher/T)) / number of positions.
    """
    _check_scores(student)
    target = xp.softmax(teacher / temperature, axis=-1)
    cross_entropy = -xp.sum(target * xp.log_softmax(student / temperature, axis=-1), axis=-1)
    return temperature**2 * _mean(xp, cross_entropy, valid)


def divergence(xp: Any, student: Any, teacher: Any, temperature: float, valid: Any = None) -> Any:
    """T^2 * mean of KL(softmax(teacher/T) || softmax(student/T)): `soft_cross_entropy` less the teacher's own entropy, so its
    gradients, and zero where both agree."""
    _check_scores(student)
    of_teacher = xp.log_softmax(teacher / temperature, axis=-1)
    difference = of_teacher - xp.log_softmax(student / temperature, axis=-1)
    return temperature**2 * _mean(xp, xp.sum(xp.exp(of_teacher) * difference, axis=-1), valid)


def cached_cross_entropy(
    xp: Any, student: Any, cached: CachedAnswer, temperature: float, valid: Any = None, less_entropy: bool = False
) -> Any:
    """`soft_cross_entropy`, or less the teacher's entropy `divergence`, of distributions in which the classes that the cache does
    not list are one: with the student's q and the teacher's p and rest r = 1 - sum of p over the listed classes,

        T^2 * mean of (-sum_listed p_c log q_c - r log sum_others q_c).

    Exact where all classes are listed. Else it is the part of the whole that does not need to know how the teacher divides r: a
    lower bound of the whole divergence, with the gradient of spreading r as the student does: T * (q_c - p_c), for one of the
    others T * (q_c - r q_c / sum_others q).
    """
    _check_scores(student)
    log_q = xp.log_softmax(student / temperature, axis=-1)
    p, rest = xp.cast_like(cached.probabilities, log_q), xp.cast_like(cached.rest, log_q)
    target = xp.at_indices(xp.zeros_like(log_q), cached.indices, p)
    listed = xp.at_indices(xp.zeros_like(log_q), cached.indices, xp.ones_like(p)) > 0
    others = xp.where(listed, xp.zeros_like(log_q) + _NO_CLASS, log_q)
    highest = xp.stop_gradient(xp.max(others, axis=-1, keepdims=True))
    log_others = xp.log(xp.sum(xp.exp(others - highest), axis=-1)) + highest[..., 0]
    values = -xp.sum(target * log_q, axis=-1) - rest * log_others
    if less_entropy:
        values = values + xp.sum(p * xp.log(xp.maximum(p, _TINY)), axis=-1) + rest * xp.log(xp.maximum(rest, _TINY))
    return temperature**2 * _mean(xp, values, valid)


def mean_squared_error(xp: Any, student: Any, teacher: Any, valid: Any = None) -> Any:
    """The mean over all elements, of valid positions."""
    squared = xp.square(student - teacher)
    return xp.mean(squared) if valid is None else _mean(xp, xp.mean(squared, axis=-1), valid)


def _check_scores(scores: Any) -> None:
    if len(scores.shape) not in (2, 3):
        raise ValueError(
            "knowledge_distillation: types softmax and kl need class scores on the last axis of a 2-d or 3-d output, "
            f"found shape {tuple(scores.shape)}: use type mse"
        )


def _mean(xp: Any, values: Any, valid: Any) -> Any:
    """Over the valid positions: their number is what the sum is divided by, not that of all."""
    if valid is None:
        return xp.mean(values)
    if not _same(valid.shape, values.shape):
        raise ValueError(
            f"knowledge_distillation: the valid positions have shape {tuple(valid.shape)}, those of an output "
            f"{tuple(values.shape)}: expected the same"
        )
    count = xp.sum(xp.cast_like(valid, values))
    return xp.sum(xp.where(valid, values, xp.zeros_like(values))) / xp.maximum(count, 1.0)


def of_samples(outputs: Sequence[Any]) -> list[Any]:
    """What a model says of its samples: without numbers that have no axis, a loss that it computes of labels."""
    return [output for output in outputs if len(output.shape)]


def outputs_loss(xp: Any, matching: OutputMatching, seen: Outputs | None, registered: ValidPositions | None, name: str) -> Any:
    """Sum of the differences of all outputs of a training forward, `seen`; None where the model has none.

    The teacher answers in inference. What the model returns in training behind these outputs (auxiliary heads) is not compared.
    RuntimeError before the first training forward. registered: the user's choice of tokens. name: the algorithm's, for messages.
    """
    if seen is None:
        raise RuntimeError(f"{name}: the loss was asked for before the model ran in training mode")
    student = seen.student[: len(seen.teacher)] if seen.teacher else seen.student
    mismatch = difference_of([a.shape for a in student], [a.shape for a in seen.teacher])
    if mismatch:
        advice = "" if len(student) == len(seen.teacher) else ": expected as many, or features and a scale of 0"
        raise ValueError(f"{name}: {mismatch}{advice}")
    valid = valid_positions(matching, seen, registered)
    terms = [_difference(matching, xp, s, t, valid) for s, t in zip(student, seen.teacher, strict=True)]
    return sum(terms[1:], terms[0]) if terms else None


def _difference(matching: OutputMatching, xp: Any, student: Any, teacher: Any, valid: Any) -> Any:
    if isinstance(teacher, CachedAnswer):
        return cached_cross_entropy(xp, student, teacher, matching.temperature, valid, matching.type == "kl")
    if matching.type == "mse":
        return mean_squared_error(xp, student, teacher, valid)
    return (divergence if matching.type == "kl" else soft_cross_entropy)(xp, student, teacher, matching.temperature, valid)


def check_cache(matching: OutputMatching, cache: TeacherCache) -> None:
    """ConfigError where the loss cannot be had from saved answers."""
    if matching.type == "mse":
        raise ConfigError("teacher: a cache has probabilities, which type mse does not compare: expected type softmax or kl")
    if cache.temperature != matching.temperature:
        raise ConfigError(f"teacher: {cache.path} is of temperature {cache.temperature:g}, expected {matching.temperature:g}")


def valid_positions(matching: OutputMatching, seen: Outputs, registered: ValidPositions | None) -> Any:
    """Which positions count; None for all."""
    if registered is not None:
        return registered.of(seen.inputs(), seen.student)
    if matching.padding is None:
        return None
    inputs, wanted = seen.inputs(), matching.padding.input
    if wanted not in inputs:
        raise ConfigError(f"padding.input: the model has no input {wanted!r}, expected one of {', '.join(inputs)}")
    value = float(matching.padding.value)
    return inputs[wanted] != (int(value) if value.is_integer() else value)


def attention_difference(xp: Any, student: Any, teacher: Any, axis: int) -> Any:
    """Mean over samples of ||a_s / ||a_s|| - a_t / ||a_t||||^2, where a map a is the sum over the channels (`axis`) of squares
    (Zagoruyko & Komodakis 2017, eq. 2, squared)."""
    maps = []
    for x in (student, teacher):
        squares = xp.sum(xp.square(x), axis=axis)
        flat = xp.reshape(squares, (-1, math.prod(squares.shape[1:])))
        maps.append(flat / xp.sqrt(xp.sum(xp.square(flat), axis=-1, keepdims=True) + SMALLEST_NORM))
    return xp.mean(xp.sum(xp.square(maps[0] - maps[1]), axis=-1))


def projected(xp: Any, x: Any, projection: Any, axis: int) -> Any:
    """Every position's channels (`axis`) times `projection` (channels of x, channels of the result)."""
    return xp.moveaxis(xp.matmul(xp.moveaxis(x, axis, -1), projection), -1, axis)


def difference_of(student: Sequence[Any], teacher: Sequence[Any], names: tuple[Sequence[str], Sequence[str]] = ((), ())) -> str:
    """In words, how the outputs of a model, by their shapes, differ from those of its teacher; "" where they do not.

    names: of the model's outputs and of the teacher's, where they have some.
    """
    if len(student) == len(teacher):
        for index, (mine, other) in enumerate(zip(student, teacher, strict=True)):
            if not _same(mine, other):
                which = [_named(own, index) for own in names]
                return f"{which[0]} of the model has shape {tuple(mine)}, {which[1]} of the teacher {tuple(other)}"
        return ""
    counted = [_listed(shapes, own) for shapes, own in zip((student, teacher), names, strict=True)]
    return f"the model has {counted[0]} and the teacher {counted[1]}"


def _same(shape: Any, other: Any) -> bool:
    """Whether two shapes agree where both are known."""
    return len(shape) == len(other) and all(a == b or None in (a, b) for a, b in zip(shape, other, strict=True))


def _named(names: Sequence[str], index: int) -> str:
    return f"output {names[index]}" if names and names[index] else f"output {index}"


def _listed(shapes: Sequence[Any], names: Sequence[str]) -> str:
    listed = ", ".join(f"{_named(names, i).removeprefix('output ')} {tuple(shape)}" for i, shape in enumerate(shapes))
    return f"{len(shapes)} outputs ({listed})" if shapes else "0 outputs"
