"""Captions of music in three steps: a model describes what it hears, tags are summed up, a model rephrases by them.

Each step has a module, so that summing up tags loads neither transformers nor openai.
"""
