"""The form that starts a verification, with a problem for each field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Form

from domain.audit.tree_head import InvalidHead, LogKey
from domain.core.errors import Invalid
from gateway.backend import Backend
from gateway.schemas import SHOWN_CHARACTERS
from infrastructure.postgres.log_reader import EventReader
from infrastructure.seals.archive import SealArchive, SealDamaged
from infrastructure.seals.verifications import Options

T = TypeVar("T")

LONGEST_KEY, LONGEST_HEAD, LONGEST_POSITION = 500, 4_000, 20
"""Maximum number of characters of each field."""

NO_KEY = (
    "The archive has no valid public key, for example because nothing is sealed yet. Start the "
    "sealer, or enter the key that `ecolink audit key` prints."
)


@dataclass(frozen=True)
class Entered:
    """The fields of the form, as they were entered. A checkbox that is not checked is empty."""

    replay: Annotated[str, Form()] = ""
    artifacts: Annotated[str, Form()] = ""
    public_key: Annotated[str, Form()] = ""
    kept_head: Annotated[str, Form()] = ""
    since: Annotated[str, Form()] = ""


EnteredOf = Annotated[Entered, Depends()]

EMPTY = Entered(replay="yes")


@dataclass
class Checked:
    """The options of a verification, and the problems of the form by field."""

    options: Options = field(default_factory=Options)
    problems: dict[str, str] = field(default_factory=dict[str, str])


def checked(entered: Entered, backend: Backend) -> Checked:
    """Read the form. A kept head must have a signature of the key."""
    found = Checked()

    def read(name: str, text: str, parse: Callable[[str], T]) -> T | None:
        try:
            return parse(text) if text.strip() else None
        except (ValueError, Invalid) as error:
            found.problems[name] = str(error)
            return None

    given = read("public_key", entered.public_key, _key)
    key = given or published_key(backend)
    if key is None and not entered.public_key.strip():
        found.problems["public_key"] = NO_KEY
    found.options = Options(
        replay=bool(entered.replay),
        artifacts=bool(entered.artifacts),
        since=read("since", entered.since, lambda text: _position(text, backend)) or 0,
        public_key=given and str(given),
        kept_head=read(
            "kept_head",
            entered.kept_head,
            lambda text: _kept_head(text, None if "public_key" in found.problems else key),
        ),
    )
    return found


def published_key(backend: Backend) -> LogKey | None:
    """Return the public key in the archive, or None if it has none, or a damaged one."""
    try:
        return SealArchive(backend.artifacts).public_key()
    except SealDamaged:
        return None


def _key(text: str) -> LogKey:
    _require_short(text, LONGEST_KEY)
    return LogKey.parse(text)


def _kept_head(text: str, key: LogKey | None) -> str:
    """Return a signed note. Browsers send line breaks as CR and LF."""
    _require_short(text, LONGEST_HEAD)
    note = "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"
    if key is not None:
        try:
            key.verify(note)
        except InvalidHead as error:
            raise Invalid(
                f"{error} Paste all lines that `ecolink audit head` printed, or correct the key."
            ) from None
    return note


def _position(text: str, backend: Backend) -> int:
    _require_short(text, LONGEST_POSITION)
    try:
        position = int(text)
    except ValueError:
        position = -1
    if position < 0:
        raise Invalid(f"{text.strip()!r} is not a position. Enter a whole number such as 1742.")
    with backend.pool.connection() as connection:
        head = EventReader(connection).head()
    if position > head:
        raise Invalid(f"There is no event {position}. The log ends at event {head}. Enter less.")
    return position


def _require_short(text: str, longest: int) -> None:
    if len(text) > longest:
        raise Invalid(
            f"'{text[:SHOWN_CHARACTERS]}…' has {len(text):,} characters. Enter at most {longest:,}."
        )
