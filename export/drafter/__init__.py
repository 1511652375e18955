"""Distillation of a small drafter from a target: prompts, generations, training, package."""
