"""What knows nothing of language models: errors, files, downloads, progress."""
