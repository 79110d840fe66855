"""Small disks for the data of a stack, which the harness can fill. They need root."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MIB = 1024**2


@dataclass(frozen=True)
class Disk:
    """A tmpfs with a limited size, mounted on a folder."""

    folder: Path

    @classmethod
    def mounted(cls, folder: Path, size_mib: int) -> Disk:
        """Mount a new disk. Raise CalledProcessError if this process may not."""
        folder.mkdir(parents=True, exist_ok=True)
        options = f"size={size_mib}m,mode=755"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
            check=True,
            capture_output=True,
        )
        return cls(folder)

    def fill(self) -> None:
        """Use up all space that is left."""
        with suppress(OSError), (self.folder / "filler").open("ab", buffering=0) as file:
            while (left := shutil.disk_usage(self.folder).free) > 0:
                file.write(bytes(min(MIB, left)))

    def clear(self) -> None:
        """Free the space that `fill` used."""
        (self.folder / "filler").unlink(missing_ok=True)

    def unmount(self) -> None:
        """Unmount the disk, with everything on it."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)
