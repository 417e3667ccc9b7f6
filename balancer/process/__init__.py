"""The supervisor, its workers and what they say to each other."""
