"""First light: how often is a token explained, how small, at what cost, and did the graph know?"""
