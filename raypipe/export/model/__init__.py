"""Exports a trained model: its weights, graphs that run without raypipe, and a card that describes it."""
