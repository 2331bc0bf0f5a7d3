"""The one mutable object: steps the schedules, sums the losses, reports, saves, strips and exports."""

from __future__ import annotations

import json
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, reduce
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from nncf_ext.adapter import Adapter, Attached
from nncf_ext.algorithm import Algorithm, CompressionStage, State, Training
from nncf_ext.calibration.initialization import adapt_batchnorm
from nncf_ext.channels.removal import merge_removals
from nncf_ext.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from nncf_ext.controller.nncf2_views import ChildController, CompressionLoss, Scheduler
from nncf_ext.controller.saved_state import check_plan, check_tensors, check_variables, clock_in
from nncf_ext.controller.teacher import run_beside
from nncf_ext.controller.without_channels import without_channels
from nncf_ext.distillation.outputs import Outputs
from nncf_ext.edits import MASK, Edit, Plan, Removal
from nncf_ext.errors import as_json
from nncf_ext.files.json_text import refused_as
from nncf_ext.forward_loss import ForwardLoss
from nncf_ext.graph import Graph
from nncf_ext.nncf2.states import nncf2_schedules
from nncf_ext.report import CompressionStatistics
from nncf_ext.schedules import Clock
from nncf_ext.soup.running import WeightAverage
from nncf_ext.step_watch import StepWatch
from nncf_ext.untouched import untouched

STATE_FORMAT = 1


_ALONE = threading.RLock()  # an export puts markers into the model, a copy is traced, a checkpoint is of one moment: of any model


class Controller:
    """Holds a compressed model in training. Made by `create_compressed_model` of the framework's package."""

    def __init__(
        self,
        adapter: Adapter,
        attached: Attached,
        graph: Graph,
        algorithms: Sequence[Algorithm],
        example: Any,
        samples: Sequence[Any] = (),
        teacher: Any = None,
        extras: Mapping[str, Any] | None = None,
    ):
        self._adapter, self._attached, self._graph = adapter, attached, graph
        self._algorithms = tuple(algorithms)
        self._example, self._samples = example, tuple(samples)
        self._extras = extras or {}
        self._teacher: Any = None
        self._stripped: Any = None  # the model, once it is plain in place: from then on `_attached` is a copy that is compressed
        self._not_copied = ""  # why there is no such copy
        self._outputs: dict[int, Outputs] = {}  # by thread: replicas of a model in one process have one each
        self._states = {a.algorithm: a.start() for a in self._algorithms}
        self.clock = Clock()
        self.scheduler = Scheduler(self)
        self.loss = CompressionLoss(self)
        if teacher is not None:
            self.set_teacher(teacher)
        self.forward_loss = ForwardLoss(self._loss_of_forward, self._weight_of_task)
        self._weight_asked = False
        self._step_watch = StepWatch(self, adapter.steps_by)
        self._end_watch: Callable[[], None] = lambda: None

    def __deepcopy__(self, memo: Any) -> Controller:
        """Itself: a copy of what holds it (Lightning's averaging copies a LightningModule) is of the training that goes on."""
        return self

    @property
    def model(self) -> Any:
        return self._attached.model if self._stripped is None else self._stripped

    @property
    def _live(self) -> Attached:
        """The plan in the model, or in the copy of it that is left once it was stripped in place. ValueError where none is."""
        if self._not_copied:
            raise ValueError(
                f"the model was stripped in place, and no compressed copy of it could be kept ({self._not_copied}): "
                "export, save and pack it before"
            )
        return self._attached

    def _refuse_stripped(self, what: str) -> None:
        if self._stripped is not None:
            raise ValueError(f"{what}: the model was stripped in place, so that nothing in it is compressed any more")

    @property
    def plan(self) -> Plan:
        return self._attached.plan

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        return self._algorithms

    @property
    def child_ctrls(self) -> list[ChildController]:
        """The algorithms one by one, as NNCF 2.x's composite controller has them."""
        return [ChildController(self, algorithm) for algorithm in self._algorithms]

    def reported_values(self, algorithm: Algorithm, method: str) -> Mapping[str, Any]:
        """`Algorithm.schedule` or `Algorithm.loss_settings` in the present state."""
        state = self._states[algorithm.algorithm]
        return algorithm.schedule(self.clock, state) if method == "schedule" else algorithm.loss_settings(state)

    @property
    def name(self) -> str:
        return ", ".join(algorithm.algorithm for algorithm in self._algorithms)

    def variable_values(self, edit: Edit) -> dict[str, np.ndarray]:
        """The present values of an edit's variables."""
        return {name: self._adapter.to_numpy(value) for name, value in self._attached.variables(edit).items()}

    def set_teacher(self, teacher: Any) -> None:
        """Distil from `teacher` (a plain model, used in inference mode) from now on."""
        run_beside(teacher, self._adapter, self._attached, self._graph, self._algorithms, self._example, self._keep_outputs)
        self._teacher = teacher

    def _keep_outputs(self, outputs: Outputs) -> None:
        self._outputs[threading.get_ident()] = outputs

    def watch_training(self) -> None:
        """From now on, say so where an optimizer trains the model and the schedules or the losses are left out."""
        self._end_watch = self._adapter.watch_training(self.model, self._step_watch, self.forward_loss)

    def initialize(self) -> None:
        """Let every algorithm make its start in the freshly compressed model."""
        self._update("initialize")

    def advance(self, clock: Clock, event: str) -> None:
        """Move the clock and let every algorithm act on `event` (`epoch_step` or `step`)."""
        self._refuse_stripped(event)
        self.after_optimizer_step()
        if event == "epoch_step":
            self._step_watch.epoch_begins()
        if self.clock == Clock() and max(clock.epoch, clock.step) == 0:
            self._step_watch.starts_anew({call for calls in self.awaited().values() for call in calls})
        self.clock = clock
        for algorithm in self._algorithms:
            name = algorithm.algorithm
            self._states[name] = getattr(algorithm, event)(self._training(algorithm), clock, self._states[name])

    def after_optimizer_step(self) -> None:
        """Let the algorithms finish what waits for the end of an optimizer step. Called by itself, wherever that matters."""
        self._update("after_optimizer_step")

    def __getattr__(self, name: str) -> Any:
        """The algorithms' own commands and readings: `set_sparsity_level(0.5)`, `current_sparsity_level`, ...

        A command with `run_batchnorm_adaptation=True` re-estimates the BatchNorm statistics after it.
        """
        for algorithm in vars(self).get("_algorithms", ()):
            if name in algorithm.readings:
                return getattr(algorithm, name)(*self._seen_by(algorithm))
            if name in algorithm.commands:
                return partial(self._command, algorithm, name)
        if name in vars(Controller):  # a property that found no algorithm for it comes here
            self._rated()
        raise AttributeError(f"the controller of {self.name or 'no algorithm'} has no {name!r}")

    def _command(self, algorithm: Algorithm, name: str, *args: Any, **kwargs: Any) -> None:
        self._refuse_stripped(name)
        given = signature(getattr(algorithm, name)).bind(*self._seen_by(algorithm), *args, **kwargs).arguments
        run_batchnorm_adaptation = given.get("run_batchnorm_adaptation", False)
        self._states[algorithm.algorithm] = getattr(algorithm, name)(*self._seen_by(algorithm), *args, **kwargs)
        if run_batchnorm_adaptation:
            adapt_batchnorm(self._adapter, self.model, [algorithm], self._extras)

    @property
    def compression_rate(self) -> float:
        """How much is compressed, by the measure of the algorithm that has one (zeros, FLOPs). Setting it ends its schedule.

        AttributeError where no algorithm has such a measure (quantization alone), or several have one.
        """
        rate = self._rated().compression_rate(*self._seen_by(self._rated()))
        assert rate is not None
        return rate

    @compression_rate.setter
    def compression_rate(self, rate: float) -> None:
        self._refuse_stripped("compression_rate")
        algorithm = self._rated()
        highest = self.maximal_compression_rate
        if not 0 <= rate <= highest:
            raise ValueError(f"compression_rate: found {rate}, expected between 0 and {highest:.4f} for {algorithm.algorithm}")
        self._states[algorithm.algorithm] = algorithm.set_compression_rate(*self._seen_by(algorithm), rate)

    @property
    def maximal_compression_rate(self) -> float:
        return self._rated().maximal_compression_rate(self._training(self._rated()))

    def freeze(self, freeze: bool = True) -> None:
        """Hold masks and scores as they are, or let the schedules go on."""
        self._refuse_stripped("freeze")
        self._update("freeze", freeze)

    def disable_scheduler(self) -> None:
        """No schedule changes the compression rate from now on."""
        self.compression_rate = self.compression_rate

    def compression_loss(self) -> Any:
        """Sum of the algorithms' losses: a scalar of the framework, differentiable."""
        return sum(self.loss_terms().values(), self._adapter.xp.asarray(np.float32(0)))

    def loss_for_loop(self) -> Any:
        """See `CompressionLoss`."""
        return self.compression_loss() if self.forward_loss.for_loop() else self._adapter.xp.asarray(np.float32(0))

    @property
    def task_weight(self) -> float:
        """Factor of the task's own loss; 1 where no config asks for another."""
        self._weight_asked = True
        return self._weight_of_task

    @property
    def _weight_of_task(self) -> float:
        return math.prod(algorithm.weight_of_task for algorithm in self._algorithms)

    @property
    def task_weight_asked(self) -> bool:
        """Whether there is none, or a loop has asked for it."""
        return self._weight_asked or self._weight_of_task == 1

    def total_loss(self, task_loss: Any) -> Any:
        """The loss to train with in a loop of your own: `task_weight` times the task's, and what the algorithms add."""
        weight = self.task_weight
        return (task_loss if weight == 1 else weight * task_loss) + self.loss()

    def _loss_of_forward(self) -> Any:
        """For a framework that adds it by itself: the loss of the forward just made, once; None where there was none."""
        if threading.get_ident() not in self._outputs and any(algorithm.needs_teacher for algorithm in self._algorithms):
            return None
        loss = self.compression_loss()
        self._outputs.pop(threading.get_ident(), None)
        return loss

    def loss_terms(self) -> dict[str, Any]:
        """Each algorithm's own term or terms, for logging."""
        return {name: term for algorithm in self._algorithms for name, term in self._terms_of(algorithm).items()}

    def _terms_of(self, algorithm: Algorithm) -> dict[str, Any]:
        """An algorithm's terms by its name, or where it has several, by its name and theirs."""
        loss = algorithm.loss(*self._seen_by(algorithm))
        named = (
            {f"{algorithm.algorithm}.{n}": t for n, t in loss.items()}
            if isinstance(loss, Mapping)
            else {algorithm.algorithm: loss}
        )
        return {name: term for name, term in named.items() if term is not None}

    def loss_values(self) -> dict[str, float]:
        """Each algorithm's term as a number; without those that need a training forward, where there was none."""
        values = {}
        for algorithm in self._algorithms:
            if algorithm.needs_teacher and threading.get_ident() not in self._outputs:
                continue
            for name, term in self._terms_of(algorithm).items():
                values[name] = float(self._adapter.to_numpy(term))
        return values

    def names_with_loss(self) -> list[str]:
        """The algorithms that add to the task's loss."""
        return [a.algorithm for a in self._algorithms if a.needs_teacher or self._terms_of(a)]

    def awaited(self) -> dict[str, Collection[str]]:
        """By algorithm, the scheduler's calls that its schedule still waits for."""
        waiting = {a.algorithm: a.awaits(self.clock, self._states[a.algorithm]) for a in self._algorithms}
        return {name: calls for name, calls in waiting.items() if calls}

    def shortfalls(self) -> dict[str, str]:
        """By algorithm, what the config asks for in the end and is not there yet, in words; without what the user set."""
        found = {a.algorithm: a.shortfall(self._training(a), self.clock, self._states[a.algorithm]) for a in self._algorithms}
        return {name: words for name, words in found.items() if words}

    def _warn_of_shortfalls(self) -> None:
        if self._stripped is not None:  # it was told then
            return
        for name, words in self.shortfalls().items():
            calls = [f"scheduler.{call}()" for call in self.awaited().get(name, ()) if self._count(call) < 0]
            why = f", which {' and '.join(calls)} never told of training" if calls else ""
            where = f"its schedule is at epoch {self.clock.epoch}{why}" if self.awaited().get(name) else "its schedule has ended"
            warnings.warn(f"{name} has not reached its target: {words}; {where}", stacklevel=1)

    def _count(self, call: str) -> int:
        return self.clock.epoch if call == "epoch_step" else self.clock.step

    def compression_stage(self) -> CompressionStage:
        stages = [a.stage(self.clock, self._states[a.algorithm]) for a in self._algorithms]
        return reduce(CompressionStage.combine, stages) if stages else CompressionStage.FULLY_COMPRESSED

    def statistics(self, quickly_collected_only: bool = False) -> CompressionStatistics:
        """What was compressed, per algorithm and layer. `str()` of it is a readable table."""
        with _ALONE:
            reports = {a.algorithm: a.report(self._training(a), self.clock, self._states[a.algorithm]) for a in self._algorithms}
            return CompressionStatistics(reports, self.plan.skipped, untouched(self._graph, self.plan))

    def get_compression_state(self) -> dict[str, Any]:
        """Plan and schedules as plain JSON data, to be saved beside the model's weights."""
        with _ALONE:
            self.after_optimizer_step()
            return {
                "builder_state": {"format": STATE_FORMAT, "plan": self._attached.plan.to_json()},
                "variables": {edit.key: dict(self._attached.tensor_names(edit)) for edit in self._attached.plan},
                "parameters": {edit.key: list(self._attached.parameter_names(edit)) for edit in self._attached.plan},
                "ctrl_state": self.get_state(),
            }

    def get_state(self) -> dict[str, Any]:
        """Where the schedules are, as plain JSON data: a part of `get_compression_state`."""
        return {
            "scheduler_state": self.scheduler.get_state(),
            "algorithms": {
                a.algorithm: {
                    "state": dict(self._states[a.algorithm]),
                    "compression_stage": int(a.stage(self.clock, self._states[a.algorithm])),
                }
                for a in self._algorithms
            },
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over `get_state` or `get_compression_state` of an earlier run, or of one of NNCF 2.x. CheckpointError, and nothing
        changed, where it had other algorithms, or is no such state."""
        self._refuse_stripped("load_state")
        with _ALONE:
            schedules = nncf2_schedules(state)
            if schedules is None:
                self._become(*self._read(state))
                return
            self._check_algorithms(schedules)
            moved = next((saved for saved in schedules.values() if saved), {"current_epoch": -1, "current_step": -1})
            self._take_up(clock_in(moved), schedules)

    def load_clock(self, state: Mapping[str, Any]) -> None:
        """See `Scheduler.load_state`. After one of NNCF 2.x, which keeps nothing else, the algorithms are where it is."""
        clock = clock_in(state)
        if "step_in_epoch" in state:
            self.clock = clock
            self._step_watch.state_loaded()
        else:
            self._take_up(clock, dict.fromkeys(self._states, state))

    def state_dict(self) -> dict[str, Any]:
        """`get_compression_state` as dictionaries, lists, numbers and strings alone: Accelerate's `register_for_checkpointing`,
        Lightning and `torch.save` (read with `weights_only=True`) take it."""
        return json.loads(json.dumps(self.get_compression_state()))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """`load_state` of `state_dict()`; the weights come with the model's own. CheckpointError, and nothing changed,
        where it is of another plan."""
        if nncf2_schedules(state_dict) is None:
            check_plan(state_dict, self.plan, "the state")
        self.load_state(state_dict)

    def _check_algorithms(self, names: Collection[str]) -> None:
        if set(names) != set(self._states):
            raise CheckpointError(
                f"the compression state is of {sorted(names)}, this model is compressed with {sorted(self._states)}"
            )

    def _read(self, state: Any) -> tuple[Clock, dict[str, State]]:
        """Clock and algorithms' states in a compression state of ours."""
        try:
            saved = state.get("ctrl_state", state)
            clock, algorithms = saved["scheduler_state"], saved["algorithms"]
            if not isinstance(algorithms, Mapping):
                raise TypeError
            self._check_algorithms(algorithms)
            states: dict[str, State] = {a.algorithm: {**a.start(), **algorithms[a.algorithm]["state"]} for a in self._algorithms}
            self._check_states(states)
        except (KeyError, TypeError, AttributeError):
            raise CheckpointError("this is no compression state: expected what get_compression_state() gave") from None
        return clock_in(clock), states

    def _check_states(self, states: Mapping[str, State]) -> None:
        for algorithm in self._algorithms:
            with refused_as(CheckpointError, f"the saved state of {algorithm.algorithm}"):
                algorithm.check_state(self._training(algorithm), states[algorithm.algorithm])

    def _take_up(self, clock: Clock, schedules: Mapping[str, Mapping[str, Any]]) -> None:
        """Be where NNCF 2.x was at `clock`."""
        states = {}
        with self._unchanged_on_error():
            for algorithm in self._algorithms:
                training, state = self._seen_by(algorithm)
                with refused_as(CheckpointError, f"the saved schedule of {algorithm.algorithm}"):
                    states[algorithm.algorithm] = algorithm.take_up(training, clock, state, schedules[algorithm.algorithm])
            self._check_states(states)
            self._become(clock, states)

    @contextmanager
    def _unchanged_on_error(self) -> Iterator[None]:
        """Within, the model's tensors and tables may change; where that ends in an error they are what they were."""
        before = {name: np.array(value) for name, value in self._adapter.tensors(self.model).items()}
        tables = self._adapter.tables(self.model)
        try:
            yield
        except BaseException:
            self._adapter.load_tensors(self.model, before, tables)
            raise

    def _become(self, clock: Clock, states: Mapping[str, State]) -> None:
        """Be where the clock and the states say; where an algorithm cannot, all are as they were."""
        before = self.clock, self._states
        self.clock, self._states = clock, dict(states)
        try:
            self._resume()
        except BaseException:
            self.clock, self._states = before
            self._resume()
            raise
        self._step_watch.state_loaded()

    def _resume(self) -> None:
        for algorithm in self._algorithms:
            algorithm.resume(*self._seen_by(algorithm))

    def save_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Weights, transform variables and compression state in one safetensors file, written atomically."""
        with _ALONE:
            state = self.get_compression_state()  # first: it may change the tensors
            tables = self._adapter.tables(self._live.model)
            save_checkpoint(path, self._adapter.tensors(self._live.model), {**state, "tables": tables} if tables else state)

    def load_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Restore what `save_checkpoint` wrote. CheckpointError, and nothing changed, where it is of another model or plan."""
        self._refuse_stripped("load_checkpoint")
        with _ALONE:
            tensors, state = load_checkpoint(path)
            try:
                check_plan(state, self.plan, "it")
                clock, states = self._read(state)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None
            check_tensors(tensors, self._adapter.tensors(self.model), path)
            check_variables(tensors, self._attached)
            with self._unchanged_on_error():
                self._load(path, tensors, state.get("tables", {}))
                for algorithm in self._algorithms:
                    with refused_as(CheckpointError, f"{path}: the saved state of {algorithm.algorithm}"):
                        algorithm.check_loaded(self._training(algorithm), states[algorithm.algorithm])
                self._become(clock, states)

    def _load(self, path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], tables: Any) -> None:
        if not isinstance(tables, Mapping):
            raise CheckpointError(f"{path}: tables: found {as_json(tables)}, expected one by layer")
        try:
            self._adapter.load_tensors(self.model, tensors, tables)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None

    def weight_average(self, decay: float | None = None) -> WeightAverage:
        """A running average of the model's weights and ranges, to be told of every step or epoch with `update()`.

        decay: of an exponential average (EMA); None for the plain mean of all updates (SWA). Masks are the model's latest.
        """
        masks = [edit for edit in self.plan if edit.transform.stage == MASK]
        copied = {name for edit in masks for name in self._attached.tensor_names(edit).values()}
        return WeightAverage(self._adapter, self.model, copied, decay)

    def strip(self, do_copy: bool = True, quantizers: bool = True) -> Any:
        """The model as it is deployed: its weights masked and rounded to the quantizers' grids, without the channels that were
        pruned, its outputs those of the compressed model.

        quantizers: its quantizers are still there, with ranges that no longer change; the framework's exporters see the
        framework's own fake-quantize operators. False: the user's model and nothing else, which computes in floating point
        without rounding activations, and can be compressed again.
        With `do_copy=False` it is the model itself: an optimizer of it is of no use where channels were removed, make a new one.
        A compressed copy stays behind, so that statistics, checkpoints and exports are had from the controller as before.
        ConfigError, and the model still compressed, where it does not work without the channels.
        """
        with _ALONE:
            self._warn_of_shortfalls()
            first = self._stripped is None
            model = self._as_deployed(do_copy, quantizers)
            unsaid = self._adapter.unsaid(model)
            if unsaid and first:
                warnings.warn(unsaid, stacklevel=2)
            return model

    def _as_deployed(self, do_copy: bool, quantizers: bool) -> Any:
        if self._stripped is not None and not do_copy:
            return self._adapter.strip(self._stripped, False, quantizers)
        removals = self._removals()
        if do_copy:
            return self._deployed(self._live, removals, True, quantizers)
        if removals:  # does it work without the channels?
            self._deployed(self._live, removals, True, quantizers)
        attached, model = self._attached, self.model
        try:
            self._attached = self._adapter.copied(attached)
        except ValueError as error:
            self._not_copied = str(error)
        try:
            self._deployed(attached, removals, False, quantizers)
        except BaseException:
            self._attached, self._not_copied = attached, ""
            raise
        self._stripped = model
        self._end_watch()
        attached.optimizer_hook.end()
        return model

    def strip_model(self, model: Any, do_copy: bool = False, quantizers: bool = True) -> Any:
        """`strip` of `model`, which is this controller's, or a copy of it; pruned channels stay in the copy, as zeros."""
        if model is self.model:
            return self.strip(do_copy, quantizers)
        with _ALONE:
            return self._adapter.strip(model, do_copy, quantizers)

    def prepare_for_export(self) -> None:
        """`strip` in place, for an exporter of one's own. `export_model` does not need it."""
        self.strip(do_copy=False)

    def distributed(self) -> None:
        """Nothing to do: masks, noise, ranges and schedules are the same on all ranks by construction. NNCF's scripts call it."""

    def export_model(
        self,
        path: str | os.PathLike[str],
        save_format: str | None = None,
        input_names: list[str] | None = None,
        output_names: list[str] | None = None,
        dynamic_shapes: Mapping[str, Mapping[int, str]] | None = None,
    ) -> Any:
        """Write an ONNX file with QuantizeLinear/DequantizeLinear, without the pruned channels, and compare it with the model.

        save_format: `onnx` or None; `onnx_<opset>` for another opset of ONNX than the exporter's own.
        dynamic_shapes: axes of inputs that take any size, as the batch always does: input -> axis -> a name for the dimension,
        `{"image": {2: "height", 3: "width"}}`. Inputs are named as the model's arguments or as in `input_names`.
        Returns the parity report (`nncf_ext.export.Parity`): largest output difference on the calibration samples in ONNX
        Runtime, in absolute terms and in quantization steps; with free axes, at a second size too. It is beside what the model
        differs from itself with its weights moved by one unit in the last place, and the file with its int32 biases by up to half
        a step; an ExportWarning tells where the file is worse.
        """
        from nncf_ext.export import export_onnx

        opset = re.fullmatch(r"onnx(?:_(\d+))?", save_format or "onnx")
        if opset is None:
            raise ValueError(f"save_format: found {save_format!r}, expected 'onnx' or 'onnx_<opset>', 'onnx_18' say")
        with _ALONE, ExitStack() as stack:
            self._warn_of_shortfalls()
            removals = self._removals()
            ours = stack.enter_context(self._adapter.in_float32(self._live))
            exported = stack.enter_context(self._adapter.in_float32(self._smaller(removals)[0])) if removals else ours
            return export_onnx(
                self._adapter,
                self._graph,
                exported,
                ours.model,
                Path(path),
                self._example,
                self._samples,
                input_names,
                output_names,
                None if opset[1] is None else int(opset[1]),
                dynamic_shapes,
            )

    def pack(self, path: str | os.PathLike[str]) -> None:
        """Write the tensors of the model without quantizers (see `strip`) entropy coded to a packed file, which
        `nncf_ext.packed.load` reads in any framework or none. What is quantized is stored as integers and their scales, product
        codes as codes and code books where that is shorter. -0.0 becomes 0.0."""
        from nncf_ext.packed.plain import packed_model

        with _ALONE:
            self.after_optimizer_step()
            self._warn_of_shortfalls()
            removals = self._removals()
            attached, graph = self._smaller(removals) if removals else (self._live, self._graph)
            coded = {
                edit: {name: self._adapter.to_numpy(value) for name, value in attached.variables(edit).items()}
                for edit in attached.plan
            }
            packed_model(path, self._adapter.tensors(self._as_deployed(True, False)), coded, graph, self._adapter.name)

    def _removals(self) -> tuple[Removal, ...]:
        return merge_removals(removal for a in self._algorithms for removal in a.removals(*self._seen_by(a)))

    def _deployed(self, attached: Attached, removals: Sequence[Removal], do_copy: bool, quantizers: bool) -> Any:
        if not removals:
            return self._adapter.strip(attached.model, do_copy, quantizers)
        smaller, _ = without_channels(self._adapter, attached, self._graph, self._example, removals, do_copy)
        return self._adapter.strip(smaller.model, False, quantizers)

    def _smaller(self, removals: Sequence[Removal]) -> tuple[Attached, Graph]:
        """A copy of the compressed model without the channels, and its graph."""
        return without_channels(self._adapter, self._live, self._graph, self._example, removals, True)

    def _training(self, algorithm: Algorithm) -> Training:
        edits = self._attached.plan.of(algorithm.algorithm)
        outputs = self._outputs.get(threading.get_ident())
        return Training(
            self._adapter,
            self._graph,
            self._attached,
            edits,
            outputs,
            self._extras,
            self.after_optimizer_step,
            self._teacher,
            self._plain,
        )

    def _plain(self) -> tuple[Any, Any]:
        plain = self._adapter.strip(self._live.model, True)
        return plain, self._adapter.trace(plain, self._example)

    def _seen_by(self, algorithm: Algorithm) -> tuple[Training, State]:
        return self._training(algorithm), self._states[algorithm.algorithm]

    def _update(self, method: str, *args: Any) -> None:
        for algorithm in self._algorithms:
            self._states[algorithm.algorithm] = getattr(algorithm, method)(*self._seen_by(algorithm), *args)

    def _rated(self) -> Algorithm:
        rated = [a for a in self._algorithms if a.compression_rate(*self._seen_by(a)) is not None]
        if len(rated) != 1:
            found = ", ".join(a.algorithm for a in rated) or "no algorithm"
            raise AttributeError(f"compression_rate: found {found} with one in {self.name!r}, expected exactly one")
        return rated[0]
