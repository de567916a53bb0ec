"""The running workloads: each is there for as long as its stream is."""
