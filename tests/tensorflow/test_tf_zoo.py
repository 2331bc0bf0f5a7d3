"""Rows of the zoo (`make zoo`): small ones in the idioms of Keras' examples, column by column."""

import pytest

from benchmarks.zoo import keras_idioms
from benchmarks.zoo.row import COLUMNS, examine


@pytest.mark.filterwarnings("ignore")  # what the zoo is about is whether they run
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("convolutions in a Sequential", marks=pytest.mark.slow),
        pytest.param("vision transformer, class token", marks=pytest.mark.slow),
        pytest.param("adapted Normalization", marks=pytest.mark.slow),
        "recommender, two tables",
    ],
)
def test_a_row_is_green(name):
    row = examine(keras_idioms.subject(name))
    assert set(row["cells"].values()) == {"ok"} and set(row["cells"]) == set(COLUMNS), row["cells"]
    assert 0 <= row["error"] < 0.2 and row["lsb"] < 2
