"""Equations of einsum, as the frameworks write them."""

import pytest

from nncf_ext.einsum import Equation, EquationError, labels


def test_an_equation_is_read_once():
    equation = Equation.parse("...ab, bc -> ...ac")
    assert (equation.factors, equation.output) == (("...ab", "bc"), "...ac")
    assert (equation.data, equation.weight) == ("ab", "bc")


@pytest.mark.parametrize("text, output", [("ij,jk", "ik"), ("...ij,jk", "...ik"), ("ji", "ij"), ("ii", "")])
def test_an_output_that_is_not_written_has_the_letters_that_stand_there_once(text, output):
    assert Equation.parse(text).output == output


def test_further_axes_are_counted_from_the_last_one():
    assert labels("...ab", 4) == (-2, -1, "a", "b")
    assert labels("a...b", 2) == ("a", "b")
    for term, rank in (("ab", 3), ("...ab", 1)):
        with pytest.raises(EquationError, match=f"found {rank} axes, expected those of"):
            labels(term, rank)
