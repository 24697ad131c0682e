"""The reconstructor of arXiv 2505.14323: a network that learns to draw training images from shadow heads."""
