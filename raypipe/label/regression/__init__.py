"""The regression: least squares over blocks, inference, residuals, and the saved fit."""
