"""The stage `policy`: how closely the first step must reproduce the old log-probs."""

import pytest
from small_settings import part

from rlmec.stages.policy import _tolerance


@pytest.mark.parametrize(
    ("precision", "bound"),
    [("32-true", 2e-5), ("32", 2e-5), ("bf16-mixed", 8e-2), ("bf16", 8e-2)],
)
def test_float32_is_held_to_its_own_rounding_by_each_of_its_names(precision, bound):
    node = part("policy", precision=precision, ratio_tolerance=None)
    assert _tolerance(node, part("model", dtype="float32", quantization=None)) == bound
    assert _tolerance(node, part("model", dtype="bfloat16", quantization=None)) == 8e-2
