"""Unit tests of balancer.doctor."""
