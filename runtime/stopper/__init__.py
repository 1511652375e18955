"""The acceptance model: how probably the drafted tokens, and the next one, will stand."""
