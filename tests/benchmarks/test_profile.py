"""Where the time of a run goes: operations counted without those that they call."""

import pytest

from benchmarks.profile import COLUMNS, Event, Stage, kinds, table


def test_an_operation_counts_without_what_it_calls():
    """Thread 1, in seconds: linear 0 to 4 with mm 1 to 3 in it, a step's mark 5 to 9 with attention
    6 to 8; thread 2: addcdiv_ 0 to 1. Of 20 seconds: matmul 2, attention 2, optimizer 1, linear
    itself 2; the mark is no operation, so 13 are outside."""
    second = 10**9
    events = [
        Event("aten::mm", 1, 1 * second, 3 * second),
        Event("aten::linear", 1, 0, 4 * second),
        Event("Optimizer.step#AdamW.step", 1, 5 * second, 9 * second),
        Event("aten::_scaled_dot_product_flash_attention_for_cpu", 1, 6 * second, 8 * second),
        Event("aten::addcdiv_", 2, 0, 1 * second),
    ]
    found = kinds(events, 20.0)
    assert tuple(found) == COLUMNS
    assert list(found.values()) == pytest.approx([2, 2, 1, 2, 13])


def test_the_table_has_a_line_a_stage_and_one_for_all():
    parts = dict.fromkeys(COLUMNS, 0.0)
    stages = [
        Stage("warmup", 3.0, parts | {"matmul": 1.5, "outside torch": 1.5}),
        Stage("grm", 1.0, parts | {"attention": 1.0}),
    ]
    lines = table(stages).splitlines()
    assert lines[2] == "| warmup | 3.0 | 75% | 50% | 0% | 0% | 0% | 50% |"
    assert lines[-1] == "| all | 4.0 | 100% | 38% | 25% | 0% | 0% | 38% |"
