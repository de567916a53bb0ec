"""Who a process is and whom it talks to: keys, certificate requests, SPIFFE verification, rotation.

Heavy modules (cryptography, protobuf, grpclib, PyJWT) are imported inside the functions that need them.
"""
