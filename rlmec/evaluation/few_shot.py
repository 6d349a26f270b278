"""Examples before a judged problem: which train problems are shown with their solutions.

In: the train problems of the judged task, the judged problems, how many, a seed. Out: for each
judged problem its examples. They are the same for all, a fixed function of the seed, and none asks
what is judged.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlmec.evaluation.train_overlap import words
from rlmec.records import Problem, hash_share


def choose_examples(
    trained: Sequence[Problem], judged: Sequence[Problem], count: int, seed: int
) -> list[Problem]:
    """`count` of `trained` that have a reference solution and whose question none of `judged` asks
    (case and sentence punctuation aside), in the order of a hash of seed and id.

    Fewer than `count` such problems raise ValueError with the numbers.
    """
    asked = {tuple(words(problem.question)) for problem in judged}
    fit = [p for p in trained if p.solution is not None and tuple(words(p.question)) not in asked]
    if len(fit) < count:
        raise ValueError(
            f"evaluate.num_fewshot={count}: only {len(fit)} of {len(trained)} train problems have "
            "a reference solution and are not among those judged"
        )
    return sorted(fit, key=lambda p: (hash_share(seed, "fewshot", p.id), p.id))[:count]
