"""Adversary strategies: each gets an `AdversaryView` and returns a `Claim` or `Blocked`."""
