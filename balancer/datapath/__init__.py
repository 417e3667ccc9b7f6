"""Bytes in, bytes out: the compiled core that a worker runs. Imports nothing heavy."""
