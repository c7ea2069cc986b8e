"""What capture and masked evaluation cost, beside plain generation and naive loops."""
