"""Models as patterns of residual blocks, and closed-form formulas of their cost."""
