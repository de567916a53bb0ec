"""Keys of token issuers, fetched by the control plane so that no server has to."""
