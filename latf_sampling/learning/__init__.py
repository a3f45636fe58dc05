"""The model, its training, and how good it is."""
