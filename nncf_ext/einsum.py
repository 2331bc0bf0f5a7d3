"""Equations of einsum, read once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

_FURTHER = "..."  # axes without letters


class EquationError(ValueError):
    """An equation that does not fit its tensors."""


@dataclass(frozen=True)
class Equation:
    """`abc,cde->abde`: a letter for each axis of a factor; axes with a letter that is not in `output` are summed over.

    factors, output: as written, without spaces; `...` stands for further axes, the same in all of them.
    """

    factors: tuple[str, ...]
    output: str

    @classmethod
    def parse(cls, text: str) -> Equation:
        """Without `->` the output has the letters that stand there once, in the order of the alphabet, as in numpy."""
        terms, arrow, output = text.replace(" ", "").partition("->")
        if not arrow:
            single = sorted(letter for letter in set(terms) if letter.isalpha() and terms.count(letter) == 1)
            output = (_FURTHER if _FURTHER in terms else "") + "".join(single)
        return cls(tuple(terms.split(",")), output)

    @property
    def data(self) -> str:
        """Letters of the first factor: of the activations, where the second is a weight."""
        return letters(self.factors[0])

    @property
    def weight(self) -> str:
        """Letters of the second factor."""
        return letters(self.factors[1])


def letters(term: str) -> str:
    """A factor, or an output, without its further axes."""
    return term.replace(_FURTHER, "")


def labels(term: str, rank: int) -> tuple[Hashable, ...]:
    """Of the axes of a factor with `rank` of them: its letters, and -1, -2, ... from the last one on for the further axes.
    EquationError where it has another number of axes."""
    before, dots, after = term.partition(_FURTHER)
    further = rank - len(before) - len(after)
    if further < 0 or (further and not dots):
        raise EquationError(f"einsum: found {rank} axes, expected those of {term!r}")
    return (*before, *range(-further, 0), *after)
