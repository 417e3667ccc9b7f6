"""The admin process: tells over HTTP how this host is doing; reads the table and snapshots, commands nobody."""
