"""A translated resource: its bytes, which are the same whenever its content is, and a version that says so."""

import hashlib
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class GeneratedResource:
    """body: the message, serialised. version: a hash of it. notes: what the configuration asks for and this client was
    not sent, and why.

    stand_in: it only tells a client that there is no such thing, so that it does not wait for it.
    """

    type_url: str
    body: bytes
    version: str
    notes: tuple[str, ...] = ()
    stand_in: bool = False

    @property
    def any(self) -> Any:
        return Any(type_url=self.type_url, value=self.body)


def pack(message: Message) -> Any:
    """An Any with deterministic bytes (``Any.Pack`` leaves the order of map entries open)."""
    return Any(type_url=_type_url(message), value=message.SerializeToString(deterministic=True))


def _type_url(message: Message) -> str:
    return f"type.googleapis.com/{message.DESCRIPTOR.full_name}"


def generated(message: Message, notes: "Notes") -> GeneratedResource:
    return of_bytes(_type_url(message), message.SerializeToString(deterministic=True), notes)


def of_bytes(type_url: str, body: bytes, notes: "Notes") -> GeneratedResource:
    return GeneratedResource(type_url, body, hashlib.sha256(body).hexdigest()[:16], notes.all, notes.stand_in)


class Notes:
    """Collects, while a resource is generated, what had to be left out; each sentence once, in order.

    stand_in: set by a generator that makes something for a name that stands for nothing.
    """

    def __init__(self) -> None:
        self._found: dict[str, None] = {}
        self.stand_in = False

    def add(self, text: str) -> None:
        self._found[text] = None

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(self._found)
