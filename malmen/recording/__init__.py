"""Keys, value gradients and frozen states: recorded, kept and replayed."""
