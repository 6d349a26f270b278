"""Good rows in the layouts that are read, to be spoiled; real ones where RLMEC_DATA names them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SHOWN = "Where do fish live?\nOptions:\nthe sea\nthe sky\na house"
CHOICES = {"text": ["the sea", "the sky"], "label": ["A", "B"]}
SEEDS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {
            "question": f"Ann has {n} pens.",
            "answer": f"{n}+1=<<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}",
        }
        for n in range(4)
    ]
    + [{"question": "Halve 8.", "ground_truth": "8/2 = 4.\nA: 4", "id": 7}],
    "svamp": [
        {"ID": f"c{n}", "Body": "Ann has 4 pens", "Question": f"She buys {n}?", "Type": "Addition"}
        | {"Equation": f"( 4.0 + {n}.0 )", "Answer": 4.0 + n}
        for n in range(3)
    ],
    "mmlu": [
        {"question": f"{n} + 1?", "subject": "elementary_mathematics", "answer": n}
        | {"choices": ["1", "2", "3,000", "\u221a2"]}
        for n in range(4)
    ]
    + [{"question": "2?", "subject": "formal_logic", "choices": ["a", "b"], "answer": "B"}],
    "options": [
        {"problem": SHOWN, "solution": "The answer is the sea", "answer": "the sea"},
        {"question": "Where?", "choices": CHOICES, "answerKey": "B", "fact1": "f", "fact2": "g"}
        | {"combinedfact": "h", "id": "q1"},
        {"q_text": "Who?", "q_ans": "me", "taskA_pos": "It is me.", "q_op1": "me", "q_op2": "you"}
        | {"q_op3": "he", "q_op4": "she", "q_op5": "it"},
    ],
    "math": [
        {"problem": "Halve one.", "level": "Level 2", "type": "Algebra"}
        | {"solution": "It is $\\boxed{\\frac{1}{2}}$."},
        {"problem": "One?", "level": 3, "subject": "x", "solution": "s", "answer": "(1, 2]"},
    ],
    "dataset": [
        {"question": "1?", "answer": "so\n#### 1"},
        {"prompt": "2?", "completion": "A: 2", "reward_model": {"ground_truth": "2"}},
        {"messages": [{"role": "user", "content": "3?"}, {"role": "assistant", "content": "A: 3"}]},
        {"question": "4?", "choices": ["x", "y"], "answer": 1, "options": {"A": "x"}},
        {"instruction": "5?", "input": "6", "output": "\\boxed{x^2}"},
    ],
    "fields": [
        {"question": f"q{n}?", "answer": n, "solution": f"A: {n}", "id": n, "kind": "k"}
        for n in range(4)
    ],
    "solutions": [
        {"question": f"q{n}?", "one": {"solution": f"A: {n}", "is_correct": True}}
        | {"two": {"solution": "A: 5", "is_correct": False}, "problem_id": f"p{n}"}
        for n in range(3)
    ],
}
REAL = {
    "gsm8k": ["gsm8k/train.jsonl", "gsm8k/model_solutions_part.jsonl"],
    "svamp": ["svamp/SVAMP_part.json"],
    "mmlu": ["mmlu/mathematics_part.json"],
    "options": ["ecqa/train_part.jsonl", "arc/train_part.jsonl", "qasc/train_part.jsonl"],
    "math": ["math/test_part.jsonl"],
}


def _real(name: str) -> list[dict[str, Any]]:
    """The first rows of the files, of a data set that has any."""
    folder, out = os.environ.get("RLMEC_DATA"), []
    for path in REAL.get(name, ()) if folder else ():
        text = Path(str(folder), path).read_text(encoding="utf-8")
        if path.endswith(".jsonl"):
            out += [json.loads(line) for line in text.split("\n", 12)[:12] if line]
        else:
            out += json.loads(text)[:12]
    return out


ROWS = {name: [*rows, *_real(name)] for name, rows in SEEDS.items()}
