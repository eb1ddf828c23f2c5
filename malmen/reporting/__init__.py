"""What a run says: its summary, its claims and its one page."""
