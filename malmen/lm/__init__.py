"""The language models that are edited: which there are, how they come, how they run."""
