"""The clipped objective with the paper's coefficients, for numbers worked by hand."""

from rlmec.method import objectives


def rlmec_clipped(tokens, **settings):
    """`rlmec_clipped` with the policy coefficient 1, divided by the rewarded tokens."""
    paper = {"policy_coef": 1.0, "per_attempt_token": False}
    return objectives.rlmec_clipped(tokens, **(paper | settings))
