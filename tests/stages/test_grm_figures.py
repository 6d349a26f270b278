"""The figures of a fit are those of the weights that its stage keeps."""

from rlmec.pipeline.fit import kept_validation
from rlmec.stages.grm import kept_figures


def validation(step, success=None):
    found = {"step": step, "val/loss": 10.0 - step}
    return found if success is None else found | {"grm/rewrite_success": success}


def test_they_are_those_of_the_first_best_validation_after_an_update():
    history = [validation(0, 0.9), validation(1, 0.5), validation(2, 0.7), validation(3, 0.7)]
    assert kept_figures([*history, validation(4, 0.6)]) == {
        "val/loss": 8.0,
        "grm/rewrite_success": 0.7,
        "grm/best_step": 2,
    }


def test_without_rewrites_they_are_the_last_ones():
    assert kept_figures([validation(0), validation(5)]) == {"val/loss": 5.0, "grm/best_step": 5}
    untouched = [validation(0, 0.4), validation(3)]
    assert kept_figures(untouched) == {"val/loss": 7.0, "grm/best_step": 3}


def test_the_weights_before_any_update_are_not_kept():
    """A start that is never reached again: the best validation after an update counts."""
    history = [{"step": step, "dev/accuracy": x} for step, x in ((0, 0.9), (1, 0.3), (2, 0.6))]
    assert kept_validation(history, "dev/accuracy") == history[2]
    assert kept_validation(history[:1], "dev/accuracy") is None
    assert kept_validation(history, "grm/rewrite_success") is None
