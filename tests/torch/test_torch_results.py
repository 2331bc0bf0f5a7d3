"""`benchmarks/results_torch.py`: what a row of docs/results.md says."""

import pytest

from benchmarks import results_soups
from benchmarks.results import FILTERS, HEADER, INT8, Row, cells
from benchmarks.results_torch import digits


def test_a_row(tmp_path):
    data = digits()
    outcome = data.compressed(data.trained(0, epochs=3), Row((FILTERS, INT8)), 0, tmp_path, epochs=2)
    assert outcome["bytes"] == (tmp_path / "compressed.onnx").stat().st_size > outcome["zipped"]
    assert outcome["left"]["weights of 8 bits"] == 11 and 50 < outcome["left"]["% of FLOPs"] < 95
    assert outcome["file"] > 0.5 and outcome["file"] == pytest.approx(outcome["model"], abs=0.05)


def test_drops_are_of_the_file_and_the_worst_seed_is_told():
    row = {"model": 0.96, "bytes": 2000, "zipped": 1000, "left": {"% of FLOPs": 40.0}}
    seeds = [{"float": 0.97, "rows": {"a": {**row, "file": 0.965}}}, {"float": 0.98, "rows": {"a": {**row, "file": 0.97}}}]
    shown = dict(zip(HEADER, cells("a", Row((), 0.45, "ResNet-18"), seeds), strict=True))
    assert (shown["float"], shown["file"], shown["drop: mean"], shown["worst"]) == ("97.50", "96.75", "+0.75", "+1.00")
    assert (shown["published by NNCF"], shown["target"]) == ("+0.45 (ResNet-18)", "<= 0.45: missed")
    assert shown["what is left"] == "40 % of FLOPs"


def test_soups_are_compared_with_the_best_ingredient_of_their_seed():
    def seed(best, soup):
        rows = {"best ingredient": (0.9, best), "greedy": (0.95, soup)}
        return {kind: rows for kind in results_soups.KINDS}

    table = results_soups.lines([seed(0.90, 0.92), seed(0.94, 0.93)])
    assert table[0][1:] == ["best ingredient", "90.00", "92.00", "+0.00", "+0.00"]
    assert table[1][1:] == ["greedy", "95.00", "92.50", "+0.50", "-1.00"]
