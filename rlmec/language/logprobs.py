"""Log-probabilities of chosen tokens, without the logits of all others.

In: the tensors of `batching.collate`, which say at which place each scored token is predicted. Out:
their float32 log-probabilities, in the batch's order. Hidden states are picked before the head, so
prompts, padding and tokens without credit never reach the vocabulary, and float32 logits of a whole
batch are never held (`head`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rlmec.language.attention import attention_arguments
from rlmec.language.head import entropy, head_entropy, head_form, head_nll


class TokenLogprobs(nn.Module):
    """A causal network whose forward gives the log-probabilities of a batch's scored tokens.

    `form` is what the network makes of its head's output, found by one trial at construction; None
    where that is more than a scale or a soft cap: then the network's own logits are used.
    `shares_prefixes` keeps the answer of `selfcheck` once it was asked.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.form = head_form(network)
        self.shares_prefixes: bool | None = None

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Tensors of `batching.collate` -> float32 [N], nats."""
        states, targets = self._chosen(batch), batch["targets"]  # [N, D] or [N, V], [N]
        if self.form is None:
            return -F.cross_entropy(states.float(), targets, reduction="none")
        return -head_nll(self.network.get_output_embeddings(), states, targets, self.form)

    @torch.no_grad()
    def entropies(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Entropy of the distribution that each scored token is drawn from: float32 [N], nats."""
        states = self._chosen(batch)
        if self.form is None:
            return entropy(states)
        return head_entropy(self.network.get_output_embeddings(), states, self.form)

    def _chosen(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """At the scored tokens' sources the hidden states [N, D]; where the network has no `form`,
        its logits [N, V]."""
        arguments = {
            "input_ids": batch["input_ids"],
            "use_cache": False,
            **attention_arguments(self.network, batch),
        }
        if self.form is None:
            logits = self.network(**arguments).logits  # [B, T, V]
            return logits.flatten(0, 1)[batch["sources"]]
        hidden = self.network.get_decoder()(**arguments).last_hidden_state  # [B, T, D]
        return hidden.flatten(0, 1).index_select(0, batch["sources"])
