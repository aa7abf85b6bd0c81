"""Embedders that need no download: log-mel features, and the encoder of any codec."""
