"""Our HTTP/2 client: many streams on one connection. h2 knows the protocol; bounds, streams and sockets are ours."""
