"""See which tokens of wrong solutions a model doubts: solutions from a file, nothing is trained.

The model is a reward model (stage=export export.what=grm), or any other model as it comes: it reads
attempt and reference solution, and says how likely each token of the attempt then is. The command
is in examples/README.md.
"""

import json
import sys
from pathlib import Path

import rlmec
from rlmec.answers.final_answer import judge_number

DOUBTED = 0.1
REWRITE = """Question: {question}
A solution with mistakes:
{attempt}
The question again: {question}
The right solution:
{solution}
The right solution once more:
"""
PROMPTS = rlmec.Templates(
    policy="{question}\n",
    rewrite=REWRITE,
    rewrite_answer_only=REWRITE.replace("{solution}", "{answer}"),
    locate="{question}\n{attempt}\n",
    located="{step}",
)


def marked(scored):
    """The attempt, with each doubted token in brackets and its probability behind it."""
    return "".join(
        f"[{token}]({p:.0%})" if p < DOUBTED and token.strip() else token
        for token, p in zip(scored.tokens, scored.probabilities, strict=True)
    )


def main(model, file):
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    wrong = [row for row in rows if judge_number(row["attempt"], str(row["answer"])) != "right"]
    print(f"{len(rows) - len(wrong)} of {len(rows)} attempts are right")

    # A directory of this project records its prompts; any other model gets those above.
    templates = None if (Path(model) / "rlmec.json").is_file() else PROMPTS
    judge = rlmec.RewardModel.load(model, templates=templates)
    questions, attempts, solutions = (
        [row[key] for row in wrong] for key in ("question", "attempt", "solution")
    )
    for question, scored in zip(
        questions, judge.score(questions, attempts, solution=solutions), strict=True
    ):
        print(f"\n{question}\n{marked(scored)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
