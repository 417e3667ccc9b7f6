"""Sync: carries zones from the publisher to the pullers. A component of its own process."""
