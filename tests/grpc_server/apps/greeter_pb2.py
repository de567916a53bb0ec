"""What protoc would write for test.Greeter, so that no test needs protoc."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TEXT = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_LABEL = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
_file = descriptor_pb2.FileDescriptorProto(name="test/greeter.proto", package="test", syntax="proto3")
for _name, _fields in (("HelloRequest", ["name"]), ("HelloReply", ["message", "peer", "pid"])):
    _message = _file.message_type.add(name=_name)
    for _number, _field in enumerate(_fields, 1):
        _message.field.add(name=_field, number=_number, type=_TEXT, label=_LABEL)
_service = _file.service.add(name="Greeter")
_service.method.add(name="Hello", input_type=".test.HelloRequest", output_type=".test.HelloReply")
_service.method.add(name="Slow", input_type=".test.HelloRequest", output_type=".test.HelloReply")
_service.method.add(name="Many", input_type=".test.HelloRequest", output_type=".test.HelloReply", server_streaming=True)
_pool = descriptor_pool.Default()
_pool.AddSerializedFile(_file.SerializeToString())
HelloRequest = message_factory.GetMessageClass(_pool.FindMessageTypeByName("test.HelloRequest"))
HelloReply = message_factory.GetMessageClass(_pool.FindMessageTypeByName("test.HelloReply"))
