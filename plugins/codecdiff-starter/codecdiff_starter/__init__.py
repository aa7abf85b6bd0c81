"""The embedded default of codecdiff: a composer, a fitted codec, text features, a small trained model."""
