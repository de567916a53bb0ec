"""The configuration kinds, typed and validated: Istio's, the Gateway API's and Kubernetes' own, as their YAML is."""
