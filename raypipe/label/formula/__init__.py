"""Formulas in Wilkinson notation: what they may hold, and their columns for any block of posts."""
