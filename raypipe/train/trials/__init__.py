"""Trials on Ray Tune and Ray Train, and who watches them."""
