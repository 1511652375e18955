"""The controller inside vLLM: a planner of the engine's settings, a scheduler, and the embedded draft as a folder."""
