"""A trained model: its stages, its folder, editing, provenance and the hub."""
