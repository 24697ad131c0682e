"""The command `rhe`."""
