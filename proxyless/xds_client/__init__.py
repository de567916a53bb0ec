"""Protobuf in, model out: the ADS stream, the ``Snapshot`` it is compiled into, and the last-known-good copy.

Import its modules where they are used: they load the generated protobuf code, which a process that never calls must not
pay for.
"""
