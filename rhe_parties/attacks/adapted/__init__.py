"""Attacks on a block of the backbone that was trained on private images and runs in the clear."""
