"""Connections kept per endpoint: who may reuse which, and until when."""
