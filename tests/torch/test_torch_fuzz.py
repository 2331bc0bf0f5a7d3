"""The quick part of `make fuzz` (see tests/fuzz): damaged checkpoints and states, and a controller in PyTorch."""

import pytest

from tests.fuzz.seeds import run
from tests.fuzz.torch_targets import TARGETS


@pytest.mark.parametrize(("name", "count"), list(zip(TARGETS, (150, 100, 30), strict=True)))
def test_what_is_refused_changes_nothing_and_what_is_taken_goes_on(name, count):
    assert run(name, 0, count) == []
