"""The tests of ns7: unit (mirror of the tree), scenario (real processes), net (namespaces), fuzz, helpers."""
