"""Structure learning on your own data: the example that the page shows."""
