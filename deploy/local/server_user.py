"""Choice of the user that runs PostgreSQL, which does not run as root."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.local.child import tethered
from deploy.local.errors import StackError

NOBODY = 65534


@dataclass(frozen=True)
class ServerUser:
    """A user in the format of deploy.local.tether, and the owner of its files on disk."""

    spec: str
    uid: int
    gid: int

    def own(self, path: Path) -> None:
        """Change the owner of a file or directory tree to this user."""
        if self.uid == os.geteuid():
            return
        os.chown(path, self.uid, self.gid)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.lchown(Path(folder) / name, self.uid, self.gid)


def server_user(data: Path, binary: Path) -> ServerUser:
    """Return the user that runs the binary on a data directory, which need not exist yet.

    An ordinary user runs it directly. A user without a name, as in containers, runs it in a user
    namespace as `nobody`, because initdb needs a name. Root switches to the owner of the data
    directory. If root is the owner, it drops its rights in a user namespace, and root keeps the
    files. If the kernel does not allow the namespace, root becomes `nobody`, who then owns the
    files. The owner of the directory therefore records which method was used.
    """
    owner = data.stat() if data.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise StackError(f"{data} belongs to user {owner.st_uid}. Run EcoLink as that user.")
        spec = "self" if _has_name(os.geteuid()) else "namespace"
        return ServerUser(spec, os.geteuid(), os.getegid())
    if owner is not None and owner.st_uid != 0:
        choices = [ServerUser(f"{owner.st_uid}:{owner.st_gid}", owner.st_uid, owner.st_gid)]
    else:
        choices = [
            ServerUser("namespace", 0, 0),
            ServerUser(f"{NOBODY}:{NOBODY}", NOBODY, NOBODY),
        ]
    reasons: list[str] = []
    for user in choices:
        if user.uid != 0:
            data.parent.chmod(0o711)  # lets the user pass; the content stays private
        reason = _refusal(user, data.parent, binary)
        if reason is None:
            return user
        reasons.append(f"as {user.spec}: {reason}")
    raise StackError(
        "PostgreSQL does not run as root, and no other user can run it here "
        f"({'; '.join(reasons)}). Run EcoLink as an ordinary user. Or set ECOLINK_HOME and "
        "install EcoLink in directories that every user may enter, such as /var/lib and /opt."
    )


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _refusal(user: ServerUser, folder: Path, binary: Path) -> str | None:
    """Return why the user cannot enter the directory or run the binary; None if the user can."""
    script = 'cd "$1" && exec "$2" --version'
    trial = subprocess.run(
        tethered(("/bin/sh", "-c", script, "sh", str(folder), str(binary)), user.spec),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return None if trial.returncode == 0 else trial.stderr.strip()
