"""What outlives the control plane: resources applied over its API, and the workloads that were registered."""
