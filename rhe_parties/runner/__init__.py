"""From parameters to parties, worlds and a record."""
