"""One run: configuration, editors, rows, and where its results come from."""
