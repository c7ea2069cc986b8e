"""The gallery: what an explanation of the embedded model looks like, made by one command."""
