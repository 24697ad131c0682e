"""Frozen backbones and the few-shot heads trained on their features."""
