"""The quick part of `make fuzz` (see tests/fuzz): damaged checkpoints, states and files of weights, and a controller in Keras."""

import pytest

from tests.fuzz.keras_targets import TARGETS
from tests.fuzz.seeds import run

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")


@pytest.mark.parametrize(("name", "count"), list(zip(TARGETS, (20, 20, 8, 20), strict=True)))
def test_what_is_refused_changes_nothing_and_what_is_taken_goes_on(name, count):
    assert run(name, 0, count) == []
