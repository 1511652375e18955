"""A report of a replay for people: one self-contained page of plots, and the numbers behind it."""
