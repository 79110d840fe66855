"""Event files of TensorBoard with scalars.

A file is a sequence of records in the format TFRecord. Each has an Event, a message of protobuf
(tensorflow/core/util/event.proto). Only the fields that scalars need are declared here. TensorBoard
reads a value in 32 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from crc32c import crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

VERSION = "brain.Event:2"
START = 1
"""SessionLog.START: TensorBoard discards the values of this step and of later ones."""

_Field = descriptor_pb2.FieldDescriptorProto
PACKAGE = "ecolink.tensorboard"


def _event_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="ecolink_tensorboard.proto", package=PACKAGE, syntax="proto3"
    )
    _declare(file, "Value", tag=(1, _Field.TYPE_STRING), simple_value=(2, _Field.TYPE_FLOAT))
    summary = file.message_type.add(name="Summary")
    summary.field.add(
        name="value",
        number=1,
        label=_Field.LABEL_REPEATED,
        type=_Field.TYPE_MESSAGE,
        type_name=f".{PACKAGE}.Value",
    )
    _declare(file, "SessionLog", status=(1, _Field.TYPE_INT32))  # an enum has the same encoding
    _declare(
        file,
        "Event",
        wall_time=(1, _Field.TYPE_DOUBLE),
        step=(2, _Field.TYPE_INT64),
        file_version=(3, _Field.TYPE_STRING),
        summary=(5, "Summary"),
        session_log=(7, "SessionLog"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Event"))


def _declare(
    file: descriptor_pb2.FileDescriptorProto, name: str, **fields: tuple[int, Any]
) -> None:
    declared = file.message_type.add(name=name)
    for field, (number, kind) in fields.items():
        if isinstance(kind, str):
            type_name = f".{PACKAGE}.{kind}"
            declared.field.add(
                name=field, number=number, type=_Field.TYPE_MESSAGE, type_name=type_name
            )
        else:
            declared.field.add(name=field, number=number, type=kind)


_Event = _event_class()


def head(at: datetime) -> bytes:
    """Return the first record of a file."""
    return _record(_Event(wall_time=at.timestamp(), file_version=VERSION))


def scalars(step: int, at: datetime, values: Mapping[str, float]) -> bytes:
    """Return the record of a step's values, by tag."""
    event = _Event(wall_time=at.timestamp(), step=step)
    for tag, value in values.items():
        event.summary.value.add(tag=tag, simple_value=value)
    return _record(event)


def restart(step: int, at: datetime) -> bytes:
    """Return a record after which TensorBoard shows no earlier values from this step on."""
    event = _Event(wall_time=at.timestamp(), step=step)
    event.session_log.status = START
    return _record(event)


def _record(event: Any) -> bytes:
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked(length), data, _masked(data)))


def _masked(data: bytes) -> bytes:
    """Return the masked checksum of some bytes, as TFRecord requires."""
    sum = crc32c(data)
    return struct.pack("<I", (((sum >> 15) | (sum << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
