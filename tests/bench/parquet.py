"""Memory and time of the validation of a large Parquet file, in the process of the service.

The file has random words in a nested column of messages, compressed with Snappy. Run it with
`make bench-parquet ARGS='--mib 512'`.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from domain.datasets.dataset import UploadOptions
from infrastructure.process.limited_process import Limits, run
from services.datasets.limited_work import LimitedWork
from services.datasets.validating import MEMORY_MIB

MIB = 1024**2
MOST_MIB = 300
ROWS_OF_GROUP = 60_000
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
SCHEMA = pa.schema([("id", pa.int64()), ("messages", pa.list_(MESSAGE))])


def write_chats(path: Path, size: int) -> None:
    """Write distinct chats to a Parquet file until it has `size` bytes."""
    source = random.Random(1)
    words = [f"{source.getrandbits(bits):x}" for bits in (16, 24, 32, 40) for _ in range(15_000)]
    with path.open("wb") as file, pq.ParquetWriter(file, SCHEMA, compression="snappy") as writer:
        number = 0
        while file.tell() < size:
            rows = []
            for _ in range(ROWS_OF_GROUP):
                number += 1
                question, answer = (" ".join(source.choices(words, k=k)) for k in (40, 120))
                messages = [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
                rows.append({"id": number, "messages": messages})
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))


def validated(upload: Path, size: int) -> tuple[dict[str, Any], float, float]:
    """Validate a file. Return the report, the seconds, and the peak memory in MiB."""
    request = {
        "task": "validate",
        "upload": str(upload),
        "examples": str(upload.with_name("examples.jsonl")),
        "max_bytes": 4 * size,
        "max_unpacked_bytes": 16 * size,
        "options": asdict(UploadOptions()),
        "columns": None,
    }
    started = time.monotonic()
    report = run(LimitedWork.WORKER, request, Limits(3_600, 36_000, MEMORY_MIB))
    seconds = time.monotonic() - started
    return report, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    """Validate a file and print its size, the time and the peak memory of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the file in MiB")
    size = parser.parse_args().mib * MIB
    with tempfile.TemporaryDirectory() as directory:
        upload = Path(directory) / "chats.parquet"
        write_chats(upload, size)
        # In a process of its own: Linux counts the memory of the parent in the peak of a child.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            report, seconds, peak = pool.submit(validated, upload, size).result()
        print(
            f"{upload.stat().st_size / MIB:.0f} MiB of Parquet, {report['examples']:,} examples, "
            f"{report['error_count']} errors: {seconds:.0f} s, peak memory {peak:.0f} MiB"
        )
        if report["error_count"] or peak > MOST_MIB:
            raise SystemExit(f"The validation must need less than {MOST_MIB} MiB.")


if __name__ == "__main__":
    main()
