"""Data files from their mirrors, verified, and stand-ins made from KILT."""
