"""Health: probes the servers and writes the verdicts that schedulers obey. A component of its own process."""
