"""Filtering of trainers' output for customers."""

from __future__ import annotations

import pytest

from infrastructure.training.customer_log import customer_lines, without_paths


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "[Errno 2] No such file or directory: '/srv/.ecolink/scratch/a-1/adapter.safetensors'",
            "[Errno 2] No such file or directory: '…/adapter.safetensors'",
        ),
        ("see file:///srv/eco/artifacts/jobs/x.", "see …/x."),
        ("(/opt/venv/lib/python3.11/site-packages/torch/nn/)", "(…/)"),
        ("path=/var/lib/x/y", "path=…/y"),
        ("120 tokens/s, and/or s3://bucket/key, https://a.example/b/c", None),
        ("step 3/30 at 1/2", None),
        ("a chat about / and /etc", None),
    ],
)
def test_paths_of_the_server_are_cut_to_their_last_part(text: str, shown: str | None) -> None:
    assert without_paths(text) == (shown or text)


OUTPUT = """\
INFO step 40/150 loss 9.8127
Traceback (most recent call last):
  File "/opt/ecolink/services/trainer/training.py", line 212, in step
    raise LossDiverged(loss)
                      ^^^^^^

During handling of the above exception, another exception occurred:

LossDiverged: the loss is nan at step 41
ERROR LossDiverged: the loss is nan at step 41
Fatal Python error: Segmentation fault
Current thread 0x00007f (most recent call first):
  File "/opt/ecolink/services/trainer/training.py", line 3 in step
Extension modules: numpy, torch (total: 2)
"""


def test_stack_traces_are_removed_and_the_error_stays() -> None:
    assert list(customer_lines(OUTPUT.splitlines())) == [
        "INFO step 40/150 loss 9.8127",
        "LossDiverged: the loss is nan at step 41",
        "ERROR LossDiverged: the loss is nan at step 41",
        "Fatal Python error: Segmentation fault",
    ]
