"""What produces the artifacts in `models/`: the predictor package and the drafter."""

__version__ = "0.1.0"
"""Version of the distribution, written into every artifact; equal to the one in `pyproject.toml`."""
