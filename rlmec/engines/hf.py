"""The default engine: the network that is trained also samples, with `lm.generation`."""

from __future__ import annotations

from rlmec.engines.base import ModelPlace


class HfEngine:
    """Every rank samples its own parts with the network of the stage's PolicyModule."""

    name = "hf"

    def check(self) -> None:
        """Runs wherever the network runs."""

    def sampler(self, place: ModelPlace) -> None:
        return None
