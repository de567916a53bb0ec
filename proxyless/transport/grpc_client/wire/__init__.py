"""Calls of asyncio's channels on HTTP/2 connections of our own (``transport.grpc_wire``)."""
