"""From a model and a config to a compressed model and its controller: the order in which things happen, for every framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from nncf_ext.adapter import Adapter, Traced
from nncf_ext.algorithm import Algorithm, PlanningContext
from nncf_ext.calibration.collectors import ranges_of
from nncf_ext.calibration.initialization import QuantizationRangeInitArgs, adapt_batchnorm, check_registered, for_model
from nncf_ext.checkpoint import CheckpointError, check_plan_fits, plan_in
from nncf_ext.config.initialization import RangeInit
from nncf_ext.controller import Controller
from nncf_ext.data import described
from nncf_ext.distillation.teacher_cache import TeacherCache
from nncf_ext.drawing import write_graphs
from nncf_ext.edits import Plan, Range, Var, compose
from nncf_ext.errors import ConfigError
from nncf_ext.files.finite import not_finite
from nncf_ext.graph import Graph
from nncf_ext.nncf2.states import nncf2_schedules
from nncf_ext.nncf_config import NNCFConfig
from nncf_ext.ops import is_opaque
from nncf_ext.saved_plan import plan_from_json
from nncf_ext.untouched import unknown_weights

_KEPT_SAMPLES = 4  # calibration batches kept for the parity check at export


def compress(
    adapter: Adapter,
    model: Any,
    config: NNCFConfig,
    example: Any,
    compression_state: Mapping[str, Any] | None = None,
    teacher: Any = None,
    dump_graphs: bool = True,
) -> Controller:
    """Compress `model` in place.

    example: inputs to trace with. Data for the initialisation comes from the config's extra structs. With `compression_state`
    (of `get_compression_state`) nothing is initialised: the values come with the weights. One of NNCF 2.x tells where
    the schedules are, not what was placed where: then all is initialised. dump_graphs: draw the graphs into the
    config's `log_dir`, where it has one.
    """
    expected = adapter.data.expected(model, example)
    extras = for_model(config.get_all_extra_structs(), expected)
    range_data = extras.get(QuantizationRangeInitArgs.__name__)
    range_batches = range_data.batches if range_data is not None else None
    algorithms = config.algorithms()
    try:
        traced = adapter.trace(model, example)
    except ValueError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the model does not run on what it is traced with (found {described(example)}; the model takes {expected}): {error}"
        ) from error
    if teacher is None and any(a.needs_teacher for a in algorithms):
        teacher = adapter.frozen_copy(model, example)
    if any(a.needs_copy for a in algorithms):
        adapter.check_copyable(model, example)
    if isinstance(teacher, TeacherCache):
        for algorithm in algorithms:
            algorithm.check_cache(teacher)
    ours = None if nncf2_schedules(compression_state) is not None else compression_state
    if ours is not None:
        plan = plan_from_json(plan_in(ours))
        check_plan_fits(plan, traced.graph)
        try:
            plan, values = _calibrated(plan, traced.graph, {})
        except (ValueError, TypeError, LookupError, ArithmeticError, AssertionError, MemoryError) as error:
            raise CheckpointError(f"the compression state's plan does not fit this model: {error}") from error
    else:
        plan = merge_plans(plan_all(algorithms, traced.graph, config), traced.graph)
        _check_parameters(adapter, model, traced, algorithms, plan)
        starts: dict[str, RangeInit] = {}
        for algorithm in algorithms:
            edits = plan.of(algorithm.algorithm)
            starts |= (own := algorithm.range_inits(traced.graph, edits))
            of_data = {edit.key: own[edit.key] for edit in edits if edit.key in own and not edit.of_parameters}
            check_registered(algorithm, of_data, extras)
        parameter, inference = partial(adapter.parameter, model, traced), partial(adapter.inference, model, traced)
        ranges = ranges_of(adapter, plan, starts, parameter, inference, partial(adapter.batch_statistics, model), range_batches)

        def teacher_graph() -> Graph:
            return adapter.trace(teacher, example).graph

        plan = _refined(adapter, model, traced, config, extras, algorithms, plan, ranges, teacher_graph)
        plan, values = _calibrated(plan, traced.graph, ranges)
    samples = list(islice(range_batches(), _KEPT_SAMPLES)) if range_batches is not None else []
    attached = adapter.apply(model, traced, plan, values)
    try:
        controller = Controller(adapter, attached, traced.graph, algorithms, example, samples, teacher, extras)
        if ours is not None:
            controller.load_state(ours)
        else:
            controller.initialize()
            adapt_batchnorm(adapter, model, algorithms, extras)
            if compression_state is not None:
                controller.load_state(compression_state)
        controller.watch_training()
    except BaseException:
        attached.detach()
        raise
    if dump_graphs and config.log_dir is not None:
        write_graphs(Path(config.log_dir), traced.graph, plan)
    return controller


def _check_parameters(adapter: Adapter, model: Any, traced: Traced, algorithms: Sequence[Algorithm], plan: Plan) -> None:
    """ConfigError where an algorithm would take a parameter without elements, or with some that are no finite numbers."""
    places = {algorithm.algorithm: getattr(algorithm, "json_path", "") or algorithm.algorithm for algorithm in algorithms}
    for site, where in {site: places[edit.algorithm] for edit in plan for site in edit.sites if site.is_parameter}.items():
        value = adapter.parameter(model, traced, site)
        if not value.size:
            raise ConfigError(f"{where}: {site} has shape {list(value.shape)}, expected elements: leave it out by ignored_scopes")
        problem = not_finite(value)
        if problem:
            raise ConfigError(f"{where}: {site} has NaN or infinite values, expected numbers: {problem}")


def plan_all(algorithms: Sequence[Algorithm], graph: Graph, config: NNCFConfig) -> dict[str, Plan]:
    """What each algorithm, by its name, asks for in a model with this graph, without looking at weights or data."""
    return {a.algorithm: _with_lr_multiplier(a.plan(graph, config.target_device), a, config) for a in algorithms}


def merge_plans(plans: Mapping[str, Plan], graph: Graph) -> Plan:
    """One plan out of those of the algorithms. ValueError where two edits collide."""
    plan = compose(plans.values())
    takes_weights = any(edit.site.is_parameter for edit in plan)
    return replace(plan, skipped=plan.skipped + opaque_nodes(graph) + (unknown_weights(graph) if takes_weights else ()))


def _with_lr_multiplier(plan: Plan, algorithm: Algorithm, config: NNCFConfig) -> Plan:
    """`compression_lr_multiplier` of the algorithm's entry or, where it has none, of the top level."""
    own = getattr(algorithm, "compression_lr_multiplier", None)
    factor = config.compression_lr_multiplier if own is None else own
    return plan if factor is None else replace(plan, edits=tuple(replace(edit, lr_multiplier=factor) for edit in plan))


def opaque_nodes(graph: Graph) -> tuple[tuple[str, str], ...]:
    """The nodes that every algorithm leaves alone, with the reason."""
    return tuple((node.name, f"{node.op}: no operator of ONNX") for node in graph.nodes if is_opaque(node))


def _calibrated(plan: Plan, graph: Graph, ranges: Mapping[str, Range]) -> tuple[Plan, dict[str, dict[str, Var]]]:
    """The plan with all that depends on data fixed, and the first values of its variables."""
    edits, values = [], {}
    for edit in plan:
        transform, variables = edit.transform.calibrate(edit.shape_in(graph), ranges.get(edit.key))
        edits.append(replace(edit, transform=transform))
        values[edit.key] = variables
    return Plan(tuple(edits), plan.skipped), values


def _refined(
    adapter: Adapter,
    model: Any,
    traced: Traced,
    config: NNCFConfig,
    extras: Mapping[str, Any],
    algorithms: Sequence[Algorithm],
    plan: Plan,
    ranges: Mapping[str, Range],
    teacher_graph: Callable[[], Graph],
) -> Plan:
    """The plan with what its algorithms let data decide about it."""

    @contextmanager
    def trial(plan: Plan) -> Iterator[Any]:
        with adapter.preserving_state(model):
            attached = adapter.apply(model, traced, *_calibrated(plan, traced.graph, ranges))
            try:
                adapt_batchnorm(adapter, model, algorithms, extras)
                yield model
            finally:
                attached.detach()

    log_dir = Path(config.log_dir or ".")
    context = PlanningContext(adapter, model, traced, config.target_device, ranges, trial, extras, log_dir, teacher_graph)
    for algorithm in algorithms:
        plan = algorithm.refine(plan, context)
    return plan
