"""Trials on Ray Tune and Ray Train, and the actor that collects their progress."""
