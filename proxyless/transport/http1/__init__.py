"""Our own HTTP/1.1 client: what goes on the wire and what comes off it, apart from the sockets that carry it."""
