"""Benchmarks of ns7 beside its peers: real name servers, real load, one machine, one run."""
