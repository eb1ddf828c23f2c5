"""What was measured, in files, and the comparisons made of it."""
