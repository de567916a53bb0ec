"""Starts a real Envoy beside an application that is not Python: bootstrap, secrets over SDS, supervision."""
