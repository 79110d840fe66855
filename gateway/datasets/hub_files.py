"""The files of one split of a dataset repository on a Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

KINDS = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".csv")
"""Types of files that EcoLink reads, the preferred ones first."""

JOINED = (".parquet", ".jsonl", ".jsonl.gz")
"""Types of which EcoLink joins several files."""

SHOWN = 10
DEFAULT = "default"


class NoFiles(Exception):
    """The repository has no such files. `field` is the invalid field of the request."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def files_of_split(paths: Sequence[str], configs: Any, config: str | None, split: str) -> list[str]:
    """Return the files of a split, sorted. They are of one type.

    `configs` are those of the repository's card, if it has any. They name the files of each split.
    Without them, the names of folders and files decide, as in the `datasets` library: `config` is a
    folder, and `split` is a word in the path. Raise NoFiles if nothing matches.
    """
    if isinstance(configs, list) and configs:
        found = _declared(paths, configs, config, split)
    else:
        found = _named(paths, config, split)
    for kind in KINDS:
        if same := sorted(path for path in found if path.endswith(kind)):
            if len(same) > 1 and kind not in JOINED:
                raise NoFiles(
                    f"The split {split!r} has {len(same):,} {kind} files. EcoLink joins only "
                    "Parquet and JSONL files. Download them, join them, and upload the result.",
                    "split",
                )
            return same
    raise NoFiles(
        f"The split {split!r} has no files in {', '.join(KINDS)}. The repository has "
        f"{_some(paths)}.",
        "split",
    )


def _declared(
    paths: Sequence[str], configs: list[Any], config: str | None, split: str
) -> list[str]:
    known = {str(each.get("config_name", DEFAULT)): each for each in configs if _is_map(each)}
    chosen = config or _default(known)
    if chosen not in known:
        what = "names no config" if config is None else f"has no config {config!r}"
        raise NoFiles(f"The repository {what}. Choose from {_some(known)}.", "config")
    splits = _patterns(known[chosen].get("data_files"))
    if split not in splits:
        raise NoFiles(
            f"The config {chosen!r} has no split {split!r}. Choose from {_some(splits)}.", "split"
        )
    return [path for path in paths if any(_matches(path, each) for each in splits[split])]


def _default(known: Mapping[str, Any]) -> str | None:
    """Return the config to use if none is chosen, or None if there is no obvious one."""
    if len(known) == 1:
        return next(iter(known))
    marked = [name for name, each in known.items() if each.get("default") is True]
    return marked[0] if marked else (DEFAULT if DEFAULT in known else None)


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """Return the patterns of each split, in any form that a card may have."""
    match data_files:
        case str():
            return {"train": [data_files]}
        case list() if all(isinstance(each, str) for each in data_files):
            return {"train": data_files}
        case list():
            return {
                str(each["split"]): _texts(each.get("path"))
                for each in data_files
                if _is_map(each) and "split" in each
            }
        case dict():
            return {str(split): _texts(paths) for split, paths in data_files.items()}
        case _:
            return {}


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]


def _matches(path: str, pattern: str) -> bool:
    """Return True if a path matches a pattern, in which `*` stays in a folder and `**` does not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.removeprefix("./"))
    regex = "".join(
        {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(each, re.escape(each))
        for each in parts
    )
    return re.fullmatch(regex, path) is not None


def _named(paths: Sequence[str], config: str | None, split: str) -> list[str]:
    data = [path for path in paths if path.endswith(KINDS)]
    if config is not None:
        data = [path for path in data if config in path.split("/")[:-1]]
        if not data:
            raise NoFiles(
                f"The repository has no folder {config!r} with data. It has {_some(paths)}.",
                "config",
            )
    word = re.compile(rf"(?:^|[/._-]){re.escape(split)}(?:$|[/._-])")
    found = [path for path in data if word.search(path)]
    if not found and split == "train" and len(data) == 1:
        return data
    if not found:
        raise NoFiles(
            f"No file of the repository belongs to the split {split!r}. It has {_some(paths)}.",
            "split",
        )
    return found


def _some(names: Iterable[str]) -> str:
    first = list(names)[: SHOWN + 1]
    return ", ".join(first[:SHOWN]) + (", …" if len(first) > SHOWN else "") or "nothing"


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)
