"""ns7's core: the forwarding data path, the processes around it, configuration and commands."""

__version__ = "0.1.0"
