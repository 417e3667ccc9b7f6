"""Unit tests of balancer.config."""
