"""The shared-memory server table: layout, writers and readers. Used by every process; imports nothing heavy."""
