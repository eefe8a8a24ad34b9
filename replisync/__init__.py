"""An always-current, promotable standby of a devpi-server."""

__version__ = "0.1.0"
