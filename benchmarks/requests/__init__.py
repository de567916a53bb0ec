"""What a request costs: through plain clients, through a pair of Envoys, and through the mesh in the process."""
