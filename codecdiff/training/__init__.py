"""Training: batches, the trainer of one stage, and the model that an experiment describes."""
