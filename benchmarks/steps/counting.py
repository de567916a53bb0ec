"""Counts the bytecode instructions that the calling thread executes, by function (``sys.settrace``)."""

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePath
from types import CodeType, FrameType
from typing import Any, Self

_PACKAGES = (
    "proxyless",
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "anyio",
    "h11",
    "uvicorn",
    "asyncio",
    "benchmarks",
)


@dataclass(slots=True)
class Counted:
    """steps, calls: by ``package/file.py function``."""

    steps: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    def encode(self) -> bytes:
        return json.dumps([self.steps, self.calls]).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        steps, calls = json.loads(data)
        return cls(Counter(steps), Counter(calls))


class Counting:
    """From ``begin`` to ``end``, in frames that begin between them."""

    def __init__(self) -> None:
        self._steps: Counter[CodeType] = Counter()
        self._calls: Counter[CodeType] = Counter()

    def begin(self) -> None:
        sys.settrace(self._called)

    def end(self) -> Counted:
        sys.settrace(None)
        found = Counted()
        for code, steps in self._steps.items():
            found.steps[_name(code)] += steps
            found.calls[_name(code)] += self._calls[code]
        return found

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        self._calls[frame.f_code] += 1
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self._steps[frame.f_code] += 1
        return self._stepped


def _name(code: CodeType) -> str:
    parts = PurePath(code.co_filename).parts
    inside = next((at for at in range(len(parts) - 1, -1, -1) if parts[at] in _PACKAGES), len(parts) - 1)
    return f"{'/'.join(parts[inside:])} {code.co_qualname}"
