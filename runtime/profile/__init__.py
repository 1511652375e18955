"""Measuring a user's own pair: traces, step records and step times."""
