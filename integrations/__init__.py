"""Adapters between the controller and the engines that people already run; they read `models/` and use `runtime`."""
