"""`ecolink audit head` and `verify-head`: signed heads, and proofs that the log only grew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from deploy.local.errors import StackError
from deploy.local.stack import database
from deploy.operator.audit import own_key
from domain.audit.consistency_proof import ConsistencyProof
from domain.audit.tree_head import InvalidHead, LogKey, TreeHead
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import errors, fail
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import connect
from infrastructure.seals.archive import SealArchive, SealDamaged
from infrastructure.seals.proofs import consistency_of
from infrastructure.settings import Settings


def head(
    since: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="File with a head that an auditor kept. Prints a JSON document with the newest "
            "head, and the proof that its log begins with the events of the kept head.",
        ),
    ] = None,
) -> None:
    """Print the newest signed head. An auditor who keeps it can detect any later change."""
    try:
        with database(Settings()) as settings:
            with connect(settings) as store:
                key = own_key(settings, store)
            archive = SealArchive(Artifacts(settings.artifacts))
            note = archive.last_note(key)
            kept = None if since is None else _head_in(since, key)
            proof = note and kept and consistency_of(note, kept, archive, key)
    except (StackError, ValueError, InvalidHead, SealDamaged) as error:
        fail(str(error), ExitCode.FAILED)
    if note is None:
        fail("Nothing is sealed yet. Run `ecolink up` and wait 10 seconds.", ExitCode.FAILED)
    if not proof or not kept:
        typer.echo(note, nl=False)
        return
    typer.echo(proof.model_dump_json(indent=1))
    _require(proof, key, kept)


def verify_head(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="Document that `ecolink audit head --since` printed.",
            show_default=False,
        ),
    ],
    kept_head: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="File with the head that you kept."),
    ],
    public_key: Annotated[
        str, typer.Option(help="Public key of the log, as `ecolink audit key` printed it.")
    ],
) -> None:
    """Verify offline that the log only grew since a kept head, and print the newest head.

    Keep the printed head for the next time. The exit status is 1 if the log of the newest head does
    not begin with the events of the kept head.
    """
    try:
        key = LogKey.parse(public_key)
        kept = _head_in(kept_head, key)
        proof = ConsistencyProof.model_validate_json(file.read_bytes())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        fail(
            f"{file} is not a document of `ecolink audit head --since`: "
            f"{'.'.join(map(str, problem['loc'])) or 'document'}: {problem['msg']}.",
            ExitCode.FAILED,
        )
    except (ValueError, InvalidHead) as error:
        fail(str(error), ExitCode.FAILED)
    _require(proof, key, kept)
    newest = key.verify(proof.head)
    errors.print(
        f"The log of {newest.size:,} events, sealed at {newest.sealed_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"begins with the {kept.size:,} events of the kept head, unchanged.",
        style="green",
    )
    typer.echo(proof.head, nl=False)


def _head_in(path: Path, key: LogKey) -> TreeHead:
    """Return the head in a file. Raise ValueError or InvalidHead."""
    try:
        return key.verify(path.read_text())
    except (UnicodeDecodeError, InvalidHead) as error:
        raise InvalidHead(f"{path} contains no head of this log: {error}") from error


def _require(proof: ConsistencyProof, key: LogKey, kept: TreeHead) -> None:
    if failures := proof.failures(key, kept):
        fail(" ".join(failures), ExitCode.FAILED)
