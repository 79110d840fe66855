"""The files of one split of a dataset repository on a Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

KINDS = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".csv")
"""Types of files that EcoLink reads, the preferred ones first."""

JOINED = (".parquet", ".jsonl", ".jsonl.gz")
"""Types of which EcoLink joins several files."""

WILDCARD = re.compile(r"[*?]")
PARTS = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")
"""Parts of a pattern: wildcards, and the texts between them."""

MOST_STEPS = 10**9
"""Most steps to match the patterns of a split with all paths. A step takes up to 55 ns."""

PATH_STEPS = 16
"""Steps to match a part of a pattern with a path, in addition to one for each character."""

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
    return _matching(paths, splits[split], split)


def _default(known: Mapping[str, Any]) -> str | None:
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


def _matching(paths: Sequence[str], patterns: Sequence[str], split: str) -> list[str]:
    patterns = [each.removeprefix("./") for each in patterns]
    names = {each for each in patterns if WILDCARD.search(each) is None}
    parts = [PARTS.findall(each) for each in patterns if each not in names]
    if sum(map(len, parts)) * sum(len(path) + PATH_STEPS for path in paths) > MOST_STEPS:
        raise NoFiles(
            f"Matching the {len(parts):,} patterns of the split {split!r} with the {len(paths):,} "
            "files of the repository takes too long. Choose another split, or download its files "
            "and upload them.",
            "split",
        )
    return [path for path in paths if path in names or any(_matches(path, each) for each in parts)]


def _matches(path: str, parts: Sequence[str]) -> bool:
    """Return True if a path matches the parts of a pattern.

    `*` stays in a folder, `**` does not, and `**/` is any number of folders. The time is
    proportional to the length of the path and to the number of parts, unlike that of a regex.
    """
    ends = {0}  # all positions in the path at which the parts so far can end
    for part in parts:
        match part:
            case "?":
                ends = {at + 1 for at in ends if path[at : at + 1] not in ("", "/")}
            case "*":
                ends = _in_folder(path, ends)
            case "**":
                ends = set(range(min(ends), len(path) + 1))
            case "**/":
                first = min(ends)
                ends |= {at for at in range(first + 1, len(path) + 1) if path[at - 1] == "/"}
            case _:
                ends = {at + len(part) for at in ends if path.startswith(part, at)}
        if not ends:
            return False
    return len(path) in ends


def _in_folder(path: str, starts: set[int]) -> set[int]:
    found: set[int] = set()
    inside = False
    for at in range(len(path) + 1):
        inside = at in starts or (inside and path[at - 1] != "/")
        if inside:
            found.add(at)
    return found


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
