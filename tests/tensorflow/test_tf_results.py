"""Networks of `make results`."""

from benchmarks.networks_keras import squeezenet


def test_squeezenet_is_that_of_the_literature():
    assert squeezenet().count_params() == 1_235_496
    small = squeezenet(10, 1, 48)
    assert small.output_shape == (None, 10) and small.count_params() == 1_235_496 - 990 * 513 - 2 * 64 * 9
