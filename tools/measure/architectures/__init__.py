"""Architectures that people deploy, as small random models: what `tools.measure.coverage` compiles, row by row."""
