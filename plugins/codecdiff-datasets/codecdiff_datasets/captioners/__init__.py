"""Captions of music in three steps: a model describes audio, tags are summarized, a model rephrases with the tags.

Each step has a module, so that summarizing tags loads neither transformers nor openai.
"""
