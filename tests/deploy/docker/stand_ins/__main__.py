"""`python -m tests.deploy.docker.stand_ins` builds the stand-ins and prints their variables.

It needs Docker, and an image `debian:trixie-slim`. Without a registry, make that image with
`mmdebstrap --variant=minbase trixie base.tar` and `docker import base.tar debian:trixie-slim`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from deploy.local.nats import binary
from tests.deploy.docker.images import STAND_INS, VARIABLES

HERE = Path(__file__).parent


def main() -> None:
    """Build the images, and print one `export` for each."""
    contexts = {
        "interpreter": Path(sys.base_prefix),
        "nats_server": binary().parent,
        "weed": Path(sys.executable).parent,
    }
    for name, image in STAND_INS.items():
        command = ["docker", "buildx", "build", "--network=host", "--target", name, "--tag", image]
        for context, folder in contexts.items():
            command += ["--build-context", f"{context}={folder}"]
        subprocess.run([*command, str(HERE)], check=True, stdout=sys.stderr)
        print(f"export {VARIABLES[name]}={image}")


if __name__ == "__main__":
    main()
