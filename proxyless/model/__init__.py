"""What the mesh knows: plain frozen data, shared by every layer. No I/O, no protobuf, nothing of ours imported."""
