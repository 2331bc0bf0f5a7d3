"""Rows of the zoo (`make zoo`): small ones in the idioms of Keras' examples, column by column."""

import pytest

from benchmarks.zoo import keras_idioms
from benchmarks.zoo.row import COLUMNS, examine


@pytest.mark.filterwarnings("ignore")  # what the zoo is about is whether they run
@pytest.mark.parametrize(
    "name",
    ["convolutions in a Sequential", "vision transformer, class token", "adapted Normalization", "recommender, two tables"],
)
def test_a_row_is_green(name):
    row = examine(keras_idioms.subject(name))
    assert set(row["cells"].values()) == {"ok"} and set(row["cells"]) == set(COLUMNS), row["cells"]
    assert 0 <= row["error"] < 0.2 and row["lsb"] < 2
