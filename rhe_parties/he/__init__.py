"""The encrypted head: plans, quantisation, and the schemes `plain`, `bfv` and `ckks`."""
