"""Weights of language models: fetched, converted, or trained here."""
