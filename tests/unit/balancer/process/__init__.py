"""Tests of balancer.process."""
