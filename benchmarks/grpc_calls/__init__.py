"""What a gRPC call costs: through bare channels, gRPC's own xDS, a pair of Envoys, and the mesh in the process."""
