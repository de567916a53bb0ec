"""How many bytecode instructions a request takes, function by function."""
