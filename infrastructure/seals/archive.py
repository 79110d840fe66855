"""The exported seals of the event log, outside the database: leaf hashes and signed tree heads.

Leaves are in files of 4,096, the last one partial. The roots of complete files are stored too, so
that the proof of an event reads few leaves. Heads are in one file for each hour. Leaves are written
before their head, so leaves after the last head do not count. Timestamps confirm the time of some
heads; each is a response of a timestamp authority (RFC 3161, DER).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from domain.audit.merkle import root_of
from domain.audit.sealed_event import ENTRY, HASH_BYTES, SealedEvent, decode, encode, leaves_in
from domain.audit.tree_head import InvalidHead, LogKey, TreeHead
from infrastructure.artifacts.store import Artifacts

SEALS = "seals"
"""Folder of the artifact store."""

HEADS, LEAVES, TIMESTAMPS = "seals/heads", "seals/leaves", "seals/timestamps"
ROOTS, PUBLIC_KEY = "seals/roots", "seals/public-key"
CHUNK_LEAVES = 4_096
FILE_ROOTS = 1_024
"""Roots in a file."""


class SealDamaged(Exception):
    """Exported heads or leaves are missing, malformed, or not signed by the log's key."""


class SealArchive:
    """The seals of one log in an artifact store. One process at a time may add to it."""

    def __init__(self, artifacts: Artifacts, chunk_leaves: int = CHUNK_LEAVES) -> None:
        self.chunk_leaves = chunk_leaves
        self._artifacts = artifacts
        self._hour = ""
        self._lines: list[str] = []  # the heads of the hour

    def put_leaves(self, first: int, leaves: list[SealedEvent]) -> None:
        """Store the leaves from index `first` on, which begins a chunk."""
        assert first % self.chunk_leaves == 0
        roots: list[bytes] = []
        for start in range(0, len(leaves), self.chunk_leaves):
            chunk = leaves[start : start + self.chunk_leaves]
            self._artifacts.put(_chunk_ref(first + start), encode(chunk))
            if len(chunk) == self.chunk_leaves:
                roots.append(root_of([leaf for _, leaf in chunk]))
        self._put_roots(first // self.chunk_leaves, roots)

    def put_head(self, head: TreeHead, key: Ed25519PrivateKey) -> None:
        """Sign and store a head. Its leaves are already stored."""
        hour = f"{head.sealed_at:%Y-%m-%dT%H}"
        ref = f"{HEADS}/{hour}.jsonl"
        if hour != self._hour:
            self._hour = hour
            stored = self._artifacts.get(ref).decode() if self._artifacts.exists(ref) else ""
            self._lines = stored.splitlines()
        lines = [*self._lines, json.dumps(head.sign(key))]
        self._artifacts.put(ref, "".join(f"{line}\n" for line in lines).encode())
        self._lines = lines

    def put_public_key(self, key: LogKey) -> None:
        """Store the key that verifies the heads, unless it is there already."""
        content = f"{key}\n".encode()
        if not self._artifacts.exists(PUBLIC_KEY) or self._artifacts.get(PUBLIC_KEY) != content:
            self._artifacts.put(PUBLIC_KEY, content)

    def public_key(self) -> LogKey | None:
        """Return the stored key, or None. An auditor compares it with one kept elsewhere."""
        try:
            return LogKey.parse(self._artifacts.get(PUBLIC_KEY).decode())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise SealDamaged(f"{PUBLIC_KEY} is damaged: {error}") from error

    def heads(self, key: LogKey) -> Iterator[TreeHead]:
        """Yield the verified heads, oldest first. Raise SealDamaged at the first invalid one."""
        for ref in self._artifacts.list(HEADS):
            for number, line in enumerate(self._artifacts.get(ref).splitlines(), start=1):
                yield _head_in(line, f"Head {number} of {ref}", key)

    def sealing_key(self, path: Path) -> Ed25519PrivateKey:
        """Return a file's private key, created only if nothing is sealed yet."""
        if not path.exists() and self._artifacts.list(HEADS):
            raise SealDamaged(
                f"The log is sealed, but {path} does not exist. Copy the key, and the file "
                f"{LastHead.beside(path).path.name} beside it, from the machine whose sealer has "
                "signed the newest head, or set ECOLINK_SEAL_KEY to a file that all sealers share."
            )
        return make_key(path)

    def last_head(self, key: LogKey) -> TreeHead | None:
        """Return the newest head, verified, or None if nothing is sealed. Raise SealDamaged."""
        found = self.last_note(key)
        return None if found is None else key.verify(found)

    def last_note(self, key: LogKey) -> str | None:
        """Return the newest head as the signed text, or None. Raise SealDamaged."""
        refs = self._artifacts.list(HEADS)
        if not refs:
            return None
        lines = self._artifacts.get(refs[-1]).splitlines()
        line = lines[-1] if lines else b""
        _head_in(line, f"The last head of {refs[-1]}", key)
        return json.loads(line)

    def leaves(self, first: int, size: int) -> Iterator[list[SealedEvent]]:
        """Yield the leaves of a tree of `size` by chunk, the first of which starts at `first`."""
        return map(decode, self.contents(first, size))

    def contents(self, first: int, size: int) -> Iterator[bytes]:
        """Yield the same as `leaves`, as it is stored."""
        for start in range(first, size, self.chunk_leaves):
            wanted = ENTRY.size * min(self.chunk_leaves, size - start)
            try:
                found = self._artifacts.get(_chunk_ref(start))[:wanted]
            except FileNotFoundError as error:
                raise SealDamaged(f"The leaves from index {start} on are missing.") from error
            if len(found) != wanted:
                raise SealDamaged(
                    f"The leaves from index {start} on have {len(found)} bytes, not {wanted}."
                )
            yield found

    def chunk(self, number: int, head: TreeHead) -> list[SealedEvent]:
        """Return the leaves of a chunk that belong to the tree of a head. Raise SealDamaged."""
        first = number * self.chunk_leaves
        return next(self.leaves(first, min(first + self.chunk_leaves, head.size)))

    def chunk_roots(self, head: TreeHead) -> list[bytes]:
        """Return each chunk's root, from the leaves unless stored roots lead to the head's."""
        stored = self._stored_roots(head.size // self.chunk_leaves)
        roots = stored + self._calculated_roots(len(stored), head)
        return roots if root_of(roots) == head.root else self._calculated_roots(0, head)

    def complete_roots(self, head: TreeHead) -> None:
        """Store the roots of an archive that does not have them, or has wrong ones."""
        count = head.size // self.chunk_leaves
        roots = self.chunk_roots(head)[:count]
        if roots != self._stored_roots(count):
            self._put_roots(0, roots)

    def cut(self, key: LogKey, last_event: int) -> int:
        """Delete the heads of later events, and what only they need. Return how many heads.

        The rest is the archive as it was after its last remaining head. Raise SealDamaged.
        """
        deleted, size = 0, 0
        for ref in self._artifacts.list(HEADS):
            lines = self._artifacts.get(ref).splitlines(keepends=True)
            heads = [_head_in(line, f"A head of {ref}", key) for line in lines]
            kept = [n for n, head in enumerate(heads) if head.last_event <= last_event]
            deleted += len(lines) - len(kept)
            size = max([size, *(heads[n].size for n in kept)])
            self._replace(ref, b"".join(lines[n] for n in kept))
        if deleted:
            for start, ref in self._numbered(LEAVES):
                self._shorten(ref, ENTRY.size * (size - start))
            for start, ref in self._numbered(ROOTS):
                self._shorten(ref, HASH_BYTES * (size // self.chunk_leaves - start))
            for stamped, ref in self._numbered(TIMESTAMPS):
                if stamped > size:
                    self._artifacts.delete(ref)
        self._hour = ""
        return deleted

    def _numbered(self, folder: str) -> list[tuple[int, str]]:
        refs = self._artifacts.list(folder)
        return [(int(ref.rpartition("/")[2].removesuffix(".tsr")), ref) for ref in refs]

    def _shorten(self, ref: str, size: int) -> None:
        content = self._artifacts.get(ref)
        if size < len(content):
            self._replace(ref, content[: max(0, size)])

    def _replace(self, ref: str, content: bytes) -> None:
        if content:
            self._artifacts.put(ref, content)
        else:
            self._artifacts.delete(ref)

    def _calculated_roots(self, number: int, head: TreeHead) -> list[bytes]:
        contents = self.contents(number * self.chunk_leaves, head.size)
        return [root_of(leaves_in(content)) for content in contents]

    def _stored_roots(self, count: int) -> list[bytes]:
        """Return the stored roots of the first `count` chunks, or of fewer if one is missing."""
        found: list[bytes] = []
        for start in range(0, count, FILE_ROOTS):
            roots = self._roots_from(start)[: count - start]
            found += roots
            if len(roots) < FILE_ROOTS:
                break
        return found

    def _put_roots(self, number: int, roots: Sequence[bytes]) -> None:
        """Store the roots of complete chunks from a number on, unless earlier ones are missing."""
        while roots:
            start, offset = number - number % FILE_ROOTS, number % FILE_ROOTS
            earlier = self._roots_from(start)[:offset] if offset else []
            if len(earlier) < offset:
                return
            added = roots[: FILE_ROOTS - offset]
            self._artifacts.put(_roots_ref(start), b"".join([*earlier, *added]))
            number, roots = number + len(added), roots[len(added) :]

    def _roots_from(self, start: int) -> list[bytes]:
        try:
            content = self._artifacts.get(_roots_ref(start))
        except FileNotFoundError:
            return []
        ends = range(HASH_BYTES, len(content) + 1, HASH_BYTES)
        return [content[end - HASH_BYTES : end] for end in ends]

    def put_timestamp(self, size: int, response: bytes) -> None:
        """Store the timestamp of the head of `size` events."""
        self._artifacts.put(_timestamp_ref(size), response)

    def has_timestamp(self, size: int) -> bool:
        """Return True if the head of `size` events has a timestamp."""
        return self._artifacts.exists(_timestamp_ref(size))

    def timestamps(self) -> Iterator[tuple[int, bytes]]:
        """Yield the size of each head that has a timestamp, in order, and the timestamp."""
        for ref in self._artifacts.list(TIMESTAMPS):
            yield int(ref.rpartition("/")[2].removesuffix(".tsr")), self._artifacts.get(ref)


def _head_in(line: bytes, name: str, key: LogKey) -> TreeHead:
    try:
        note = json.loads(line)
        if not isinstance(note, str):
            raise InvalidHead("the line is not a JSON string")
        return key.verify(note)
    except (ValueError, InvalidHead) as error:
        raise SealDamaged(f"{name} is damaged: {error}") from error


def _chunk_ref(start: int) -> str:
    return f"{LEAVES}/{start:012}"


def _roots_ref(start: int) -> str:
    return f"{ROOTS}/{start:012}"


def _timestamp_ref(size: int) -> str:
    return f"{TIMESTAMPS}/{size:012}.tsr"


class LastHead:
    """The last head that this machine signed, in a file beside the key.

    The archive must still contain it. Otherwise, an attacker who deletes heads from the archive
    could make the sealer sign a changed log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, key_file: Path) -> LastHead:
        """Return the last head of a key."""
        return cls(key_file.with_name(f"{key_file.stem}.last-head"))

    def read(self, key: LogKey) -> TreeHead | None:
        """Return the head, or None if this machine has signed none. Raise SealDamaged."""
        try:
            return key.verify(self.path.read_text())
        except FileNotFoundError:
            return None
        except (ValueError, InvalidHead) as error:
            raise SealDamaged(f"{self.path} is damaged: {error}") from error

    def write(self, note: str) -> None:
        """Store a signed head."""
        partial = self.path.with_name(f".{self.path.name}")
        partial.write_text(note)
        partial.replace(self.path)


def origin_of(log_id: UUID) -> str:
    """Return the name of a log in its heads and its key."""
    return f"ecolink/{log_id}"


def load_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key in a PEM file. Raise ValueError or FileNotFoundError."""
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(
            f"{path} has no Ed25519 key. Restore the file, or correct ECOLINK_SEAL_KEY."
        )
    return key


def make_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key in a file, which is created with a new key if it does not exist."""
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        partial.touch(mode=0o600)
        partial.write_bytes(pem)
        partial.rename(path)
    return load_key(path)
