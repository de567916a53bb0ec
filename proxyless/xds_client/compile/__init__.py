"""One xDS resource in, model out. What cannot be used is refused, what is not acted on is reported."""
