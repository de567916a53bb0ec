"""Bytes between a connection that we accepted and the gRPC server behind it, which cannot accept it the way we need."""
