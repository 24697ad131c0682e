"""Datasets, disjoint splits and the procedural handwriting that the default backbone is pretrained on."""
