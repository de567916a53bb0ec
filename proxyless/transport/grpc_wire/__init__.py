"""HTTP/2 as gRPC uses it, both ends of it, without a socket: header blocks, frames, windows, and gRPC's messages.

gRPC needs little of HTTP/2 (no push, no priorities, small heads that repeat) and much speed, so this is our own.
"""
