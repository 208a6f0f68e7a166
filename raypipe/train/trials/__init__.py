"""Trials on Ray Tune and Ray Train, and the actor that watches them."""
