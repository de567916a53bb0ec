"""What became of the configuration: which client accepted, refused or awaits what was made from which resource."""
