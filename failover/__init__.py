"""Failover: keeps the virtual address on a living director. A component of its own process."""
