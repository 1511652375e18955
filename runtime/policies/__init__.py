"""What chooses gamma. A policy sees signals and returns a length; it knows no model and imports no torch."""
