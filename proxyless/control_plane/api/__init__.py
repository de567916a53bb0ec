"""The HTTP side of the control plane: health, metrics, and the JSON API behind the command line."""
