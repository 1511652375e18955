"""Live comparison: the loop with each policy, and other systems' decoding, interleaved in one run."""
