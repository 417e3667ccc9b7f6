"""Tells people what happened: mail and a command. One process on every host; see docs/alerts.md."""
