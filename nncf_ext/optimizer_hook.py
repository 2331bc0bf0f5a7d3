"""The one hook around the steps of optimizers: what algorithms read before them and change after them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from nncf_ext.edits import Edit
from nncf_ext.graph import Site


class OptimizerHook(Protocol):
    """Around the steps of the optimizers that train one compressed model. Nothing is hooked before the first `listen`."""

    def listen(self, dense: Iterable[Edit] = (), after: Mapping[str, Callable[[Any], Any]] | None = None) -> None:
        """See all optimizers from their next step on. For `Algorithm.initialize` and `resume`; again, it changes nothing.

        dense: the masks for which `request_dense_gradients` may ask; what they mask is zero in the parameter itself.
        after: by edit key, the function parameter -> parameter of what each optimizer step leaves of it. In a compiled training
        step it is a part of that, so it reads what changes in variables.
        """
        ...

    def end(self) -> None:
        """The reverse of `listen`: of a model that became plain. Not within a step."""
        ...

    def request_dense_gradients(self, arrived: Callable[[], None]) -> None:
        """Have the next optimizer step keep the gradients that the parameters of `dense` would have without their masks.

        Until that step the masks are left out of the computation, which changes nothing else; the optimizer gets gradients that
        they masked. `arrived` is called after the step where the framework can tell when that is.
        """
        ...

    def dense_gradients(self) -> Mapping[str, Any] | None:
        """What was asked for, by edit key, without parameters that no gradient reached; None before the optimizer step."""
        ...

    def scale_parameter_and_moments(self, site: Site, factor: Any) -> None:
        """Multiply a parameter, and all that optimizers which were seen keep for its elements, by `factor` (of its shape)."""
        ...

    def second_moment(self, site: Site) -> Any:
        """The running mean of its squared gradients that an optimizer keeps for a parameter (Adam's v and the like); None where
        none that was seen keeps one."""
        ...
