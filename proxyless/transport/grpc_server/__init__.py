"""gRPC servers in the mesh. grpcio is imported with this package, so only by those who serve gRPC."""
