"""Formulas in Wilkinson notation: what they may contain, and their columns for any block of posts."""
