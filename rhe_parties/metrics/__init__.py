"""The only place where claims meet ground truth."""
