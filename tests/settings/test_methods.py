"""Every objective, reward rule, rows function and method of conf/ composes, binds and builds."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rlmec.pipeline.pair_records import MAKERS, preferred, stages_read
from rlmec.settings.binding import ConfigurationError, build
from rlmec.settings.check import check
from rlmec.settings.command_line import check_command_line

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = ("policy/objective", "policy/reward", "policy/rows", "method", "ablation")
OPTIONS = [
    f"{group}={path.stem}"
    for group in GROUPS
    for path in (CONF / group).glob("*.yaml")
    if path.stem != "own"
]


def settings(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", overrides=["logger=none", *overrides]), CONF)


def test_the_options_are_seen():
    assert len(OPTIONS) >= 5 + 3 + 6 + 8 + 13


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_composes_binds_and_builds(option):
    policy = settings(option).policy
    for node in (policy.objective, policy.reward, policy.rows):
        assert callable(build(node))
        assert node["_partial_"] is True


CHANGES = {
    "rlmec": [],
    "discriminator": ["grm", "score", "policy"],
    "grm_only": ["score", "policy"],
    "authors_mixture": ["grm"],
}


def test_a_method_changes_the_policy_node_alone():
    """But for the discriminator, whose GRM learns labels, corrections by the GRM alone, and the
    authors' mixture of the GRM."""
    plain = settings()
    groups = ("method", "ablation")
    for path in [file for group in groups for file in (CONF / group).glob("*.yaml")]:
        other = settings(f"{path.parent.name}={path.stem}")
        found = [n for n in vars(plain) if getattr(plain, n) != getattr(other, n)]
        assert sorted(found) == sorted(CHANGES.get(path.stem, ["policy"])), path.stem


ALONE, TAUGHT, EVERYTHING = ("sample",), ("sample", "teach"), ("sample", "teach", "score")
BY_TEACHER = "policy.corrections=teacher"
READ = {
    ("method=rft",): ALONE,
    ("method=continued_sft",): ALONE,
    ("method=grpo",): ALONE,
    ("method=sequence_ppo",): ALONE,
    ("method=dpo_attempts",): ALONE,
    ("method=minimum_edits",): TAUGHT,
    ("method=imitation_alone", BY_TEACHER): TAUGHT,
    ("method=imitation_alone", "ablation=uniform_imitation", BY_TEACHER): TAUGHT,
    ("method=teacher_solutions", "ablation=teacher_only"): TAUGHT,
    ("method=dpo_corrections", BY_TEACHER): TAUGHT,
    ("ablation=edit_label_reward", BY_TEACHER): TAUGHT,
    ("ablation=sequence_reward", BY_TEACHER): TAUGHT,
    ("ablation=first_error", BY_TEACHER): TAUGHT,
    ("method=grpo", "policy.keep_uncorrected=false", BY_TEACHER): TAUGHT,
    ("method=grpo", "policy.keep_uncorrected=false"): EVERYTHING,  # attempts the GRM corrected
    ("method=imitation_alone",): EVERYTHING,  # the GRM's corrections count, too
    ("method=teacher_solutions",): EVERYTHING,
    ("ablation=edit_label_reward",): EVERYTHING,
    (BY_TEACHER,): EVERYTHING,  # token rewards
    ("ablation=rewards_alone", BY_TEACHER): EVERYTHING,
    ("ablation=good_prefix", BY_TEACHER): EVERYTHING,
}


@pytest.mark.parametrize("overrides", READ, ids=" ".join)
def test_a_method_waits_for_what_it_reads_and_nothing_else(overrides):
    assert stages_read(settings(*overrides).policy) == READ[overrides]


def test_an_ablation_can_be_added_to_a_method():
    policy = settings("method=rlmec_authors", "ablation=teacher_only").policy
    assert policy.objective["_target_"] == "rlmec.method.objectives.rlmec_authors"
    assert policy.corrections == "teacher"


def test_settings_of_a_nested_rule_are_reached_from_the_command_line():
    line = ["ablation=good_prefix", "policy.reward.rule.wrong_low=-0.3"]
    policy = settings(*check_command_line(line, CONF, "train"))
    rule = build(policy.policy.reward)
    assert rule.keywords["rule"].keywords["wrong_low"] == -0.3


def test_corrections_of_the_grm_alone_need_all_rewrites():
    with pytest.raises(ConfigurationError, match=r"set score\.rewrite=true and score\.rewrite_c"):
        settings("policy.corrections=grm")
    assert settings("ablation=grm_only").score.rewrites_all


def test_a_teachers_accepted_correction_counts_more_than_the_grms():
    """Two of one maker are both kept: joining the pairs then refuses them."""
    facts = [("a", "not_right", "oracle"), ("b", "accepted", "oracle")]
    facts += [("a", "accepted", "grm"), ("b", "accepted", "grm")]
    assert preferred(facts) == [1, 2]
    assert preferred([*facts, ("b", "accepted", "oracle")]) == [1, 2, 4]
    assert MAKERS["both"] == ("teach", "score")
