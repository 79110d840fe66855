"""Validate damaged Parquet files: `python -m tests.services.datasets.damaged_parquet SEED...`.

It is a process of its own, because pyarrow ends its process for some damaged files.
"""

from __future__ import annotations

import random
import sys

from domain.datasets.dataset import DatasetStatus
from services.datasets.report import Report
from tests.services.datasets.formats import CORPUS, FORMATS, validated_file


def damaged(content: bytes, seed: int) -> bytes:
    """Return the content with changed, lost and added bytes."""
    draw, changed = random.Random(seed), bytearray(content)
    for _ in range(draw.randint(1, 4)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    if draw.random() < 0.3:
        del changed[draw.randint(0, len(changed)) :]
    if draw.random() < 0.3:
        at = draw.randint(0, len(changed))
        changed[at:at] = draw.randbytes(draw.randint(0, 20))
    return bytes(changed)


def main(seeds: list[int]) -> None:
    """Validate a file for each seed, and print the seed first."""
    content = FORMATS["Parquet"](CORPUS)
    for seed in seeds:
        print(seed, flush=True)
        upload = damaged(content, seed)
        report, examples, _ = validated_file(upload, unpacked=10**7)
        assert (report.status is DatasetStatus.REJECTED) == (report.error_count > 0)
        assert report.bytes <= len(upload)
        assert Report.model_validate_json(report.model_dump_json()) == report
        if report.status is DatasetStatus.READY_FOR_TRAINING:
            assert len(examples) == report.examples


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]])
