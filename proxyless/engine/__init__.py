"""What the mesh decides, without I/O: no sockets, no await, no threads; the clock and the random source are given."""
