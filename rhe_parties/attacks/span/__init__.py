"""Span inversion: training features, then pixels, from the weights of few-shot heads; pure functions."""
