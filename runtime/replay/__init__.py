"""Exact greedy replay of policies over traces, without a model and without torch."""
