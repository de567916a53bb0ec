"""The control plane: configuration, registry, certificate authority, translation to xDS, and the servers around
them.
"""
