"""A gRPC client of the mesh: a call for each line of JSON on stdin, its outcome as one on stdout."""

import json
import sys
import time
from typing import Any

import grpc

_channels: dict[str, grpc.Channel] = {}


def call(asked: dict[str, Any]) -> dict[str, Any]:
    channel = _channels.setdefault(asked["target"], grpc.insecure_channel(asked["target"]))
    began, by, code, details = time.monotonic(), "", "OK", ""
    try:
        metadata = [(name.lower(), value) for name, value in asked["metadata"]]
        answer = channel.unary_unary(asked["path"])(asked["body"].encode(), metadata=metadata, timeout=60)
        by = json.loads(answer)["by"]
    except grpc.RpcError as error:
        code, details = error.code().name, error.details() or ""
    return {"by": by, "code": code, "details": details, "seconds": time.monotonic() - began}


for line in sys.stdin:
    print(json.dumps(call(json.loads(line))), flush=True)
