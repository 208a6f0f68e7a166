"""A trained model for those who use it: weights, graphs that need no raypipe, and a card that says what it is."""
