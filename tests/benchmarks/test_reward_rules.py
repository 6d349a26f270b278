"""The table of reward rules: means, ranges, order, and ranks that keep ties."""

import torch
from torchmetrics.functional.classification import binary_average_precision

from benchmarks.rewards import ABLATIONS, CONF, Line, _ranks, rules, table

REWARD = "override /policy/reward: null"
CONTROL = "_target_: rlmec.ablations.placement."
"""Controls move the penalties of another rule, which is measured."""


def line(rule, seed, ranking, first_error=0.5):
    return Line(rule, seed, 0.8, 0.4, 0.53, ranking, 0.0, first_error, 10, 90.0 + seed)


def test_the_best_ranking_stands_first_with_means_and_ranges():
    found = table([line("a", 1, 0.2), line("a", 2, 0.4), line("b", 1, 0.9), line("b", 2, 0.7)])
    heading, _, first, second = found.splitlines()
    assert heading.startswith("| rule | precision | recall | f1 | ranking | false alarms |")
    assert first.startswith("| b | 0.80 (0.80 to 0.80) ")
    assert "| 0.80 (0.70 to 0.90) |" in first
    assert first.endswith("| 92 (91 to 92) |")  # 91.5, to the even digit
    assert second.startswith("| a |")
    assert "| 0.30 (0.20 to 0.40) |" in second


def test_a_task_without_lines_leaves_its_cell_empty():
    assert table([line("a", 1, 0.2, None)]).splitlines()[-1].endswith("|  | 91 |")


def test_every_rule_that_gives_rewards_is_measured():
    assert {"clipped_probability", "edit_labels", "verdict"} <= set(rules())
    assert rules()["edit_labels"] == "policy/reward=edit_labels"
    assert rules()["verdict"] == "ablation=sequence_reward"
    assert rules()["discriminator"] == "ablation=discriminator"
    assert not {"no_reward", "own"} & set(rules())
    files = {p.stem: p.read_text() for p in (CONF / "ablation").glob("*.yaml")}
    changing = {name for name, text in files.items() if REWARD in text and CONTROL not in text}
    assert changing == set(ABLATIONS.values())


def test_ranks_have_the_average_precision_of_the_values():
    """Removed tokens at places 1 and 3 of [3, 2, 1]: (1/1 + 2/3) / 2; tied with all others: 1/2."""
    removed = torch.tensor([1, 0, 1])
    ranked = binary_average_precision(_ranks(torch.tensor([30.0, -2.0, -5.0])), removed)
    assert abs(float(ranked) - 5 / 6) < 1e-6
    tied = binary_average_precision(_ranks(torch.zeros(4)), torch.tensor([1, 0, 1, 0]))
    assert float(tied) == 0.5
