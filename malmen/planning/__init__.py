"""What stages and whole runs will need, before they start."""
