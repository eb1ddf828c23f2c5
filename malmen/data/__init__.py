"""Facts, the rows that are edited, and where both come from."""
