"""A training loop in plain PyTorch and transformers with the token rewards of a reward model.

Each step samples completions, asks the reward model for a reward per token, and takes one gradient
step on them (REINFORCE, without a baseline). Sampling by `generate` is slow: it is the place where
a loop of yours differs. The command is in examples/README.md.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import rlmec
from rlmec.answers.final_answer import judge_number
from rlmec.export.token_rewards import TokenRewards, padded


def main(policy, reward_model, file, steps=10, batch=16):
    torch.manual_seed(1)
    grm = rlmec.RewardModel.load(reward_model, device="cpu")
    token_rewards = TokenRewards(grm)
    tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    problems = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    template = grm.prompts.templates.policy

    shares = []
    for step in range(int(steps)):
        rows = [problems[(step * batch + i) % len(problems)] for i in range(batch)]
        texts = [template.replace("{question}", row["question"]) for row in rows]
        inputs = tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=False
        )  # [B, P]
        ids = model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=True,
            top_k=0,
            max_new_tokens=64,
        )  # [B, P + T]

        # The ids of each completion, its end token included; what follows is padding.
        made = ids[:, inputs["input_ids"].shape[1] :]  # [B, T]
        is_end = made == tokenizer.eos_token_id
        mask = is_end.cumsum(1) - is_end.long() == 0  # [B, T]
        completions = [row[keep].tolist() for row, keep in zip(made, mask, strict=True)]
        written = tokenizer.batch_decode(completions, skip_special_tokens=True)
        is_right = [
            judge_number(text, str(row["answer"])) == "right"
            for text, row in zip(written, rows, strict=True)
        ]

        columns = {key: [row[key] for row in rows] for key in ("question", "solution", "answer")}
        rewards = padded(token_rewards(texts, completions, is_right, columns), made.shape[1])

        seen = torch.cat([inputs["attention_mask"], mask.long()], 1)
        positions = (seen.cumsum(1) - 1).clamp(min=0)
        logits = model(ids, attention_mask=seen, position_ids=positions).logits
        logits = logits[:, -made.shape[1] - 1 : -1]  # [B, T, V]
        logprobs = logits.log_softmax(-1).gather(2, made[..., None])[..., 0]  # [B, T]
        loss = -(rewards * logprobs)[mask].sum() / mask.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        shares.append(sum(is_right) / batch)
        print(f"step {step}: {shares[-1]:.0%} right, mean reward {rewards[mask].mean():+.4f}")
    return model, shares


if __name__ == "__main__":
    main(*sys.argv[1:])
