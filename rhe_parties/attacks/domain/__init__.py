"""Which of many unlabelled images are of the private data's kind: adaptive domain inference (arXiv 2312.15088)."""
