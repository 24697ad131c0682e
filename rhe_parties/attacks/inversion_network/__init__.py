"""Inputs from released scores: the inversion network of Yang et al. 2019 (arXiv 1902.08552) on shadow heads."""
