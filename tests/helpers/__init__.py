"""What scenario and net tests stand on: a running ns7, clients, servers, namespaces. No tests here."""
