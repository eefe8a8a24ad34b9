"""`make demo`: a real devpi-server, its standby, and a failover, told in readable lines."""
