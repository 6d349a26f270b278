"""Rows of a data set on the Hugging Face hub, as the tasks read those of a file.

In: the data set's name, its configurations and which of its splits stand for ours; out: tables that
are fetched when first asked for. Needs the network, or a cache that `datasets` has filled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlmec.tasks.files import Row, Table


def hub_tables(
    hub: str,
    configs: str | Sequence[str] | None,
    revision: str | None,
    splits: Mapping[str, str | None],
) -> dict[str, Table]:
    """One table for each of our splits that `splits` gives a split of the data set for.

    The rows of several configurations follow each other in their order. A table raises
    FileNotFoundError where the data set cannot be reached and ValueError for a configuration or a
    split that it does not have.
    """
    names = [configs] if isinstance(configs, str) or configs is None else list(configs)
    return {
        ours: lambda theirs=theirs: [
            row for name in names for row in _rows(hub, name, revision, theirs)
        ]
        for ours, theirs in splits.items()
        if theirs is not None
    }


def _rows(hub: str, config: str | None, revision: str | None, split: str) -> list[Row]:
    from datasets import load_dataset

    place = "/".join(part for part in (hub, config, split) if part)
    try:
        table = load_dataset(hub, config, split=split, revision=revision)
    except OSError as error:
        raise FileNotFoundError(
            f"the data set {place} could not be read from the hub: {error}; "
            "task.path=FILE reads a local file instead"
        ) from error
    except ValueError as error:
        raise ValueError(f"the data set {place} on the hub: {error}") from error
    return [Row(place, number, dict(values)) for number, values in enumerate(table, start=1)]
