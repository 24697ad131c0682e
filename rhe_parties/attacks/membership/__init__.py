"""Was this image in the training set? Candidates, shadow statistics and likelihood ratios."""
