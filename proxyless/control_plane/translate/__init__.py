"""World and client in, xDS resources out: a pure function, split into one generator for each resource type."""
