"""Training data: audio files and their captions in, integer codes in a store, crops out."""
