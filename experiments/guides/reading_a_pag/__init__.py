"""Reading a PAG: the pictures that the page shows."""
