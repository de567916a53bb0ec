"""Where bytes move: HTTP/1.1 and TLS connections, their pools, and the adapters for clients and servers."""
