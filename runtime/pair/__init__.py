"""The draft/target pair: finding, loading and checking the two models. Needs torch and transformers."""
