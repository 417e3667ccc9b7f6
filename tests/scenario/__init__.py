"""Scenarios: real `ns7` processes on free loopback ports, real sockets, real and scripted name servers."""
