"""What clients report of the load they sent (LRS), added up for /metrics."""
