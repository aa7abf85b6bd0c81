"""Encoding of audio into a store of codes: in this process, on this machine or on a cluster."""
