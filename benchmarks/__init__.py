"""Measurements. Every claim about speed or scale comes from here: see docs/benchmarks."""
