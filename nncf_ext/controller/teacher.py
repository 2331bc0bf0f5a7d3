"""A teacher beside the model in training: its answers to the same inputs, for the losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

from nncf_ext.adapter import Adapter, Attached
from nncf_ext.algorithm import Algorithm
from nncf_ext.distillation.losses import difference_of, of_samples
from nncf_ext.distillation.outputs import Outputs
from nncf_ext.distillation.teacher_cache import TeacherCache
from nncf_ext.errors import ConfigError
from nncf_ext.graph import Graph, Site


def run_beside(
    teacher: Any,
    adapter: Adapter,
    attached: Attached,
    graph: Graph,
    algorithms: Sequence[Algorithm],
    example: Any,
    keep: Callable[[Outputs], None],
) -> None:
    """After each training forward, run `teacher` (a model, or a cache of its answers) on the same inputs, and give both outputs
    to `keep`. ConfigError where it does not run on the model's example, or has other outputs.
    """
    model = attached.model
    _check_outputs(teacher, adapter, model, algorithms, example)
    pairs: dict[Site, Site] = {}  # of the model and of the teacher
    if isinstance(teacher, TeacherCache):
        from_file = teacher.answering(adapter, model)
        answer = lambda inputs: (from_file(inputs), {})  # noqa: E731
    else:
        traced = cache(partial(adapter.trace, teacher, example))
        for algorithm in algorithms:
            edits = attached.plan.of(algorithm.algorithm)
            pairs |= algorithm.teacher_sites(edits, graph, lambda: traced().graph)
        infer = adapter.inference(teacher, traced() if pairs else None, {site: lambda x: x for site in pairs.values()})

        def answer(inputs: Any) -> tuple[list[Any], Mapping[Site, Any]]:
            outputs, seen = infer(inputs)
            return [output for _, output in adapter.data.flatten(outputs)], seen

    def after_forward(inputs: Any, outputs: Any, passed: Mapping[Site, Any]) -> None:
        answers, seen = answer(inputs)
        keep(
            Outputs(
                of_samples([output for _, output in adapter.data.flatten(outputs)]),
                of_samples(answers),
                partial(adapter.data.named, model, inputs),
                {site: (passed[site], seen[other]) for site, other in pairs.items() if site in passed and other in seen},
            )
        )

    adapter.tap(model, attached.traced, tuple(pairs), after_forward)


def _check_outputs(teacher: Any, adapter: Adapter, model: Any, algorithms: Sequence[Algorithm], example: Any) -> None:
    ours = _output_shapes(adapter, model, example)
    if ours and not any(ours.values()):
        raise ConfigError(
            f"teacher: the model's outputs ({', '.join(ours)}) are numbers without axes, a loss say, from which nothing is "
            "learned: expected a forward that returns what it says of each sample too"
        )
    if isinstance(teacher, TeacherCache):
        for algorithm in algorithms:
            algorithm.check_cache(teacher)
        theirs = {str(index): (None, *shape) for index, shape in enumerate(teacher.shapes)}
    else:
        theirs = _output_shapes_of_teacher(adapter, teacher, example)
    mismatch = difference_of([*ours.values()], [*theirs.values()], ([*ours], [*theirs]))
    if mismatch:
        raise ConfigError(f"teacher: {mismatch}; expected the same")


def _output_shapes(adapter: Adapter, model: Any, example: Any) -> Mapping[str, Any]:
    outputs, _ = adapter.inference(model)(example)
    return {name: tuple(output.shape) for name, output in adapter.data.flatten(outputs)}


def _output_shapes_of_teacher(adapter: Adapter, teacher: Any, example: Any) -> Mapping[str, Any]:
    try:
        return _output_shapes(adapter, teacher, example)
    except Exception as error:
        raise ConfigError(f"teacher: it does not run on the model's inputs: {error}") from error
