"""Scenarios that need network namespaces: routes, MTU, packet filters, addresses that come and go."""
