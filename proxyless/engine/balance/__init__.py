"""Choosing an endpoint of a cluster: priorities and localities first (plan), then a host among equals (hosts)."""
