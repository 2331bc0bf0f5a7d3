"""The noise table: the logistic distribution, drawn anew in every step, the same everywhere."""

import numpy as np

from nncf_ext import noise
from nncf_ext import numpy_xp as xp


def test_every_column_has_the_quantiles_of_the_logistic_distribution():
    table = noise.table()
    assert table.shape == (noise.ROWS, noise.WIDTH) and table.dtype == np.float32
    u = (np.arange(noise.ROWS) + 0.5) / noise.ROWS
    np.testing.assert_allclose(np.sort(table, axis=0), np.repeat(np.log(u / (1 - u))[:, None], noise.WIDTH, 1), rtol=1e-6)
    assert abs(np.corrcoef(table[:, 0], table[:, 1])[0, 1]) < 0.1


FIRST = [-0.7411, -1.502, 0.965]
ROWS_OF_STEP_7 = [924, 998, 709]


def test_it_is_the_same_table_on_every_machine():
    """Checkpoints hold which rows a step took, so the table must never change."""
    assert [round(float(value), 4) for value in noise.table()[0, :3]] == FIRST
    assert noise.draw(7, [600, 1])[0].tolist() == ROWS_OF_STEP_7


def test_a_draw_depends_on_the_step_and_the_place_only():
    one, two = noise.draw(3, [1000, 600])
    assert [len(one), len(two)] == [4, 3] and one.dtype == np.int32
    again = noise.draw(3, [1000, 600])
    assert (again[0] == one).all() and (again[1] == two).all()
    assert any((noise.draw(4, [1000])[0] != one).tolist())
    many = np.concatenate([noise.draw(step, [25600])[0] for step in range(100)])
    counts = np.bincount(many, minlength=noise.ROWS)
    assert len(counts) == noise.ROWS and abs(counts.mean() - 9.77) < 0.1 and counts.max() < 40


def test_a_weight_is_dropped_as_often_as_its_score_says():
    """sigmoid(1.5) = 0.818: over many steps every weight is kept in that share of them."""
    kept = [1.5 + noise.logistic(xp, noise.draw(step, [300])[0], (10, 30)) > 0 for step in range(2000)]
    assert abs(np.mean(kept) - 0.8176) < 0.005
    assert np.abs(np.mean(kept, axis=0) - 0.8176).max() < 0.05


def test_rows_follow_each_other_in_index_order():
    rows = np.array([5, 2], np.int32)
    expected = np.concatenate([noise.table()[5], noise.table()[2]])[:300].reshape(3, 100)
    assert (noise.logistic(xp, rows, (3, 100)) == expected).all()
