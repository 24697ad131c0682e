"""Adversaries who know more: some of the training images, or the weights before training; pure functions."""
