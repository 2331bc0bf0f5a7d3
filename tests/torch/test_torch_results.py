"""`benchmarks/results_torch.py`: what a row of docs/results.md says."""

import numpy as np
import pytest

from benchmarks import results_packed, results_soups
from benchmarks.networks_torch import SqueezeNet
from benchmarks.results import FILTERS, HEADER, INT8, Row, cells
from benchmarks.results_students import LABELLED, STUDENTS, UNKNOWN, UNLABELLED, Batches, cut, left, lines
from benchmarks.results_torch import digits


@pytest.mark.slow
def test_a_row(tmp_path):
    data = digits()
    with pytest.warns(UserWarning, match="filter_pruning has not reached its target"):  # two epochs of its three
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


def test_students_share_their_labelled_images_and_are_cut_to_one_size():
    batches = Batches(0)
    alone, taught = (next(batches.of(STUDENTS[name])) for name in ("alone", "distilled"))
    np.testing.assert_array_equal(alone[1], taught[1][:LABELLED])
    assert (taught[1][LABELLED:] == UNKNOWN).all() and taught[0].shape == (LABELLED + UNLABELLED, 8, 8)
    labels = np.concatenate([labels for _, labels in batches.of(STUDENTS["alone"])])
    assert set(labels) == set(range(10))
    kept = cut([np.array([[3.0, -0.1], [0.0, 0.2]]), np.array([[-4.0, 0.3]])], 1 / 3)
    assert [w.tolist() for w in kept] == [[[3, 0], [0, 0]], [[-4, 0]]] and left(kept) == pytest.approx(100 / 3)


def test_targets_of_students():
    seed = {"teacher": 1.0, "students": {name: {"accuracy": 0.8, "left": 100.0} for name in STUDENTS}}
    seed["students"]["distilled"]["accuracy"] = 0.9
    rows = {row[0]: row for row in lines([seed])}
    assert rows["alone"][4] == "20.00" and rows["distilled"][5] == "half of alone: met"
    assert rows["CORAD"][5] == "above either term alone: missed"


def test_soups_are_compared_with_the_best_ingredient_of_their_seed():
    def seed(best, soup):
        rows = {"best ingredient": (0.9, best), "greedy": (0.95, soup)}
        return {kind: rows for kind in results_soups.KINDS}

    table = results_soups.lines([seed(0.90, 0.92), seed(0.94, 0.93)])
    assert table[0][1:] == ["best ingredient", "90.00", "92.00", "+0.00", "+0.00"]
    assert table[1][1:] == ["greedy", "95.00", "92.50", "+0.50", "-1.00"]


def test_squeezenet_is_that_of_the_literature():
    assert sum(p.numel() for p in SqueezeNet().parameters()) == 1_235_496
    assert sum(p.numel() for p in SqueezeNet(10, 1).parameters()) == 1_235_496 - 990 * 513 - 2 * 64 * 9


def test_a_rate_is_sought():
    assert results_packed.sought(lambda rate: 2 * rate**0.7, 1.0, 1.0) == pytest.approx(0.5 ** (1 / 0.7), rel=0.01)


def test_a_chain_meets_its_target_without_a_loss_only():
    def seed(file, packed):
        of = {"float": 0.97, "bytes": 5_200_000, "int8": 1_000_000}
        row = {"model": 0.98, "file": file, "packed": packed, "bits": 0.5}
        return {name: {**of, "chains": dict.fromkeys(network.chains, row)} for name, network in results_packed.NETWORKS.items()}

    told = [results_packed.chain_lines([seed(*s)])[0] for s in ((0.97, 100_000), (0.96, 100_000), (0.98, 104_000))]
    assert [row[-2:] for row in told] == [["52.0x", "51x: met"], ["52.0x", "51x: missed"], ["50.0x", "51x: missed"]]
    assert told[1][5:7] == ["+1.00", "+1.00"]


def test_curves_are_means_of_ratios_and_codings_tell_both_accuracies():
    def seed(file, packed):
        row = {"model": 0.98, "file": file, "packed": packed, "bits": 2.0, "at once": 0.5}
        methods = {name: dict.fromkeys(points, row) for name, points in results_packed.METHODS.items()}
        return {"float": 0.97, "bytes": 100_000, "methods": methods, "codings": dict.fromkeys(results_packed.CODINGS, row)}

    seeds = [seed(0.97, 10_000), seed(0.95, 50_000)]
    shown = dict(zip(results_packed.CURVE_HEADER, results_packed.curve_lines(seeds)[0], strict=True))
    assert [shown[key] for key in ("accuracy", "drop: mean", "worst", "times smaller")] == ["96.00", "+1.00", "+2.00", "6.0x"]
    shown = dict(zip(results_packed.EQUAL_HEADER, results_packed.equal_lines(seeds)[0], strict=True))
    assert (shown["as coded"], shown["trained on"], shown["bits per weight"]) == ("50.00", "96.00", "2.00")
