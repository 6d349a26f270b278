"""The default engine: the network that is trained also samples, by `language.generation`."""

from __future__ import annotations

from rlmec.engines.base import ModelPlace


class HfEngine:
    """Every rank samples its own parts with the network that PolicyModule holds."""

    name = "hf"

    def check(self) -> None:
        """It runs wherever the network runs."""

    def sampler(self, place: ModelPlace) -> None:
        return None
