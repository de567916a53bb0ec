"""Istio's certificate-signing API, spoken by both sides: istio.io/api ``security/v1alpha1/ca.proto``.

The message classes are built at run time in a descriptor pool of their own, so that they cannot clash with an
installed copy of Istio's API. Fields we do not use (``metadata``) travel as unknown fields.
"""

import functools
from typing import Any, NamedTuple

CREATE_CERTIFICATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
SERVICE = "istio.v1.auth.IstioCertificateService"
METHOD = "CreateCertificate"
MAX_CSR_BYTES = 16 * 1024


class Messages(NamedTuple):
    """Protobuf classes. Request: ``csr`` (PEM), ``validity_duration`` (seconds). Response: ``cert_chain`` (PEM each;
    root last).
    """

    Request: Any
    Response: Any


@functools.cache
def messages() -> Messages:
    """The message classes of CreateCertificate."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="security/v1alpha1/ca.proto", package="istio.v1.auth", syntax="proto3"
    )
    request = file.message_type.add(name="IstioCertificateRequest")
    request.field.add(name="csr", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    request.field.add(name="validity_duration", number=3, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL)
    response = file.message_type.add(name="IstioCertificateResponse")
    response.field.add(name="cert_chain", number=1, type=field.TYPE_STRING, label=field.LABEL_REPEATED)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)

    def message(name: str) -> Any:
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"istio.v1.auth.{name}"))

    return Messages(message("IstioCertificateRequest"), message("IstioCertificateResponse"))
