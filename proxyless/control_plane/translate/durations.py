"""Seconds as protobuf durations."""

from google.protobuf.duration_pb2 import Duration


def duration(seconds: float) -> Duration:
    nanoseconds = round(seconds * 1_000_000_000)
    return Duration(seconds=nanoseconds // 1_000_000_000, nanos=nanoseconds % 1_000_000_000)
