"""What a hidden layer may put its values through; without torch, so that messages and parameters can name it too."""

__all__ = ["ACTIVATIONS"]

ACTIVATIONS = ("relu", "square")
