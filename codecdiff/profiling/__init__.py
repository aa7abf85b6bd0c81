"""What training will need, counted before it begins."""
