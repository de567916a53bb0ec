"""The xDS server: both variants of ADS. It knows streams and versions, and nothing of what it serves."""
