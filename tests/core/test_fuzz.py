"""The quick part of `make fuzz` (see tests/fuzz): some seeds of every target that needs no framework."""

import os

import pytest

from tests.fuzz.seeds import run
from tests.fuzz.targets import TARGETS

QUICK = {
    "configs": 600,
    "packed files: arrays, bits, inspect, unpack": 200,
    "checkpoints: read, inspected, averaged": 300,
    "kill -9 while writing": 10,
}


@pytest.mark.parametrize("name", TARGETS)
def test_damage_ends_in_one_error_or_none(name):
    if "kill" in name and os.name != "posix":
        pytest.skip("needs fork")
    assert run(name, 0, QUICK.get(name, 200)) == []
