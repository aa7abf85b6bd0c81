"""What training will need, counted before it starts."""
