"""How good outputs are by labels or by another model's, as functions of arrays."""
