"""The tests of a driver, written once: a class of them for each framework's own."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from tests.contract import precision
from tests.contract.cases import CASES
from tests.contract.contract import check_numbers, check_resume, check_strip
from tests.contract.mistakes import MISTAKES, check_mistake, check_wrong_checkpoints

ROWS = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


class ContractTests:
    """driver: `precision.LabelledDriver`."""

    driver: ClassVar[Any]

    @ROWS
    def test_numbers(self, case):
        check_numbers(self.driver, case)

    @ROWS
    def test_resume(self, case, tmp_path):
        check_resume(self.driver, case, tmp_path)

    @ROWS
    def test_strip(self, case):
        check_strip(self.driver, case)

    @pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
    def test_mistake(self, mistake):
        check_mistake(self.driver, mistake)

    def test_wrong_checkpoints(self, tmp_path):
        check_wrong_checkpoints(self.driver, tmp_path)

    def test_hessian(self):
        precision.check_hessian(self.driver)

    def test_estimated_traces(self, tmp_path):
        precision.check_estimated_traces(self.driver, tmp_path)

    def test_hawq_is_the_best(self, tmp_path):
        precision.check_hawq_is_the_best(self.driver, tmp_path)

    def test_autoq(self, tmp_path):
        precision.check_autoq(self.driver, tmp_path)

    def test_choice_of_bits_is_saved(self, tmp_path):
        precision.check_choice_is_saved(self.driver, tmp_path)

    def test_search_of_clip_q(self):
        precision.check_clip_q_search(self.driver)
