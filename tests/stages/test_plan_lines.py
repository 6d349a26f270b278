"""What `stage=plan` says of each artifact."""

from types import SimpleNamespace

from rlmec.pipeline.chain import Expected
from rlmec.stages.run import artifact_lines


def planned(**expected):
    order = [SimpleNamespace(key=name, title=name) for name in expected]
    return artifact_lines(SimpleNamespace(order=order, expected=expected))


def test_each_artifact_has_its_line():
    lines = planned(
        warmup=Expected("reuse", 0.0),
        sample=Expected("continue", None),
        teach=Expected("make", 61.0),
        grm=Expected("make", None),
    )
    assert [line.split() for line in lines[1:]] == [
        ["reuse", "warmup"],
        ["continue", "sample,", "unknown", "time"],
        ["make", "teach,", "about", "1", "min", "01", "s"],
        ["make", "grm,", "unknown", "time"],
    ]


def test_a_plan_without_addresses_says_so():
    assert len(planned()) == 1
