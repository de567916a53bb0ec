"""The mesh's certificate authority: its root, the tokens that let workloads enrol, and Istio's signing API."""
