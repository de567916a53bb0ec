"""Server reflection, ``grpc.reflection.v1``: how tools learn what the server speaks. Open to every caller.

It tells the schema of public APIs, nothing that the control plane knows. The message classes are grpclib's copy of the
standard ones.
"""

from collections.abc import Callable, Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from grpclib.reflection.v1 import reflection_pb2

SERVICE = "grpc.reflection.v1.ServerReflection"
METHOD = "ServerReflectionInfo"

Context = grpc.aio.ServicerContext[Any, Any]


class ReflectionService:
    """files: descriptors of the files whose services are served, of the default pool."""

    def __init__(self, files: Iterable[Any]) -> None:
        described = (*files, reflection_pb2.DESCRIPTOR)
        self._services = sorted(each.full_name for file in described for each in file.services_by_name.values())
        self._pool = descriptor_pool.Default()

    def handler(self) -> grpc.GenericRpcHandler:
        """To register with ``grpc.aio.Server.add_generic_rpc_handlers``."""
        method = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    async def _stream(self, requests: Any, context: Context) -> None:
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                response = self._answer(request)
                response.valid_host = request.host
                response.original_request.CopyFrom(request)
                await context.write(response)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "that is no ServerReflectionRequest")

    def _answer(self, request: Any) -> Any:
        answers: dict[str, Callable[[Any], Any]] = {
            "file_by_filename": lambda name: _files(self._pool.FindFileByName(name)),
            "file_containing_symbol": lambda name: _files(self._pool.FindFileContainingSymbol(name)),
            "file_containing_extension": self._extension,
            "all_extension_numbers_of_type": self._extension_numbers,
            "list_services": self._listing,
        }
        asked = request.WhichOneof("message_request")
        if asked is None:
            return _error(grpc.StatusCode.INVALID_ARGUMENT, "the request asks nothing")
        try:
            return answers[asked](getattr(request, asked))
        except KeyError:
            return _error(grpc.StatusCode.NOT_FOUND, "not found")

    def _extension(self, asked: Any) -> Any:
        extended = self._pool.FindMessageTypeByName(asked.containing_type)
        extension = self._pool.FindExtensionByNumber(extended, asked.extension_number)
        return _files(self._pool.FindFileContainingSymbol(extension.full_name))

    def _extension_numbers(self, name: str) -> Any:
        message = self._pool.FindMessageTypeByName(name)
        numbers = sorted(extension.number for extension in self._pool.FindAllExtensions(message))
        found = reflection_pb2.ExtensionNumberResponse(base_type_name=name, extension_number=numbers)
        return reflection_pb2.ServerReflectionResponse(all_extension_numbers_response=found)

    def _listing(self, _: Any) -> Any:
        listed = [reflection_pb2.ServiceResponse(name=name) for name in self._services]
        found = reflection_pb2.ListServiceResponse(service=listed)
        return reflection_pb2.ServerReflectionResponse(list_services_response=found)


def _files(file: Any) -> Any:
    """A file and everything it imports, so that one answer is enough."""
    found: dict[str, bytes] = {}
    waiting = [file]
    while waiting:
        if (each := waiting.pop()).name not in found:
            proto = FileDescriptorProto()
            each.CopyToProto(proto)
            found[each.name] = proto.SerializeToString()
            waiting += each.dependencies
    answer = reflection_pb2.FileDescriptorResponse(file_descriptor_proto=found.values())
    return reflection_pb2.ServerReflectionResponse(file_descriptor_response=answer)


def _error(code: grpc.StatusCode, text: str) -> Any:
    error = reflection_pb2.ErrorResponse(error_code=code.value[0], error_message=text)
    return reflection_pb2.ServerReflectionResponse(error_response=error)
