"""The verified causal graph: what its edges, its marks and its searches are worth."""
