"""Models as patterns of residual blocks, and the closed-form arithmetic of their cost."""
