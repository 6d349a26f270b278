"""Two responses in the tensors of verl: prompts on the left, padding on both sides."""

import torch
from small_models import PROBLEMS, prompts

CODEC = prompts().codec
PROMPT = 3
"""Columns of the prompt; the first is padding."""
WRONG, RIGHT = "1 + 3 = 5\nThe answer is 5.", "1 + 3 = 4\nThe answer is 4."
ONE = PROBLEMS[1]
FIELDS = {
    "reward_model": {"ground_truth": "4"},
    "extra_info": {"question": ONE.question, "solution": ONE.solution},
    "data_source": "s",
}


def ids_of(*texts):
    return [CODEC.completion(text) for text in texts]


def responses():
    """Responses [2, T], two columns wider than the longer one, and their mask [2, PROMPT + T]."""
    ids = ids_of(WRONG, RIGHT)
    width = max(map(len, ids)) + 2
    found = torch.full((2, width), CODEC.pad_id)
    mask = torch.zeros(2, PROMPT + width, dtype=torch.long)
    for i, one in enumerate(ids):
        found[i, : len(one)] = torch.tensor(one)
        mask[i, 1 : PROMPT + len(one)] = 1
    return found, mask
