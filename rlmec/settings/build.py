"""Objects from checked nodes."""

from __future__ import annotations

import functools
from typing import Any

from hydra.utils import get_object


def build(node: dict[str, Any], **extra: Any) -> Any:
    """What a checked node stands for: its target called with its values (nodes among them built
    first) and `extra`; with `_partial_` the function that is still to be called."""
    plain = {k: _build_value(v) for k, v in node.items() if k not in ("_target_", "_partial_")}
    target = get_object(node["_target_"])
    if node.get("_partial_"):
        return functools.partial(target, **{**plain, **extra})
    return target(**{**plain, **extra})


def _build_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_build_value(item) for item in value]
    if isinstance(value, dict):
        if "_target_" in value:
            return build(value)
        return {key: _build_value(item) for key, item in value.items()}
    return value
