"""The pure parts of health."""
