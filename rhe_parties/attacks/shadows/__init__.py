"""Shadow heads: trained by the adversary on its own images with the victims' recipe, streamed block by block."""
