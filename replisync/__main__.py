"""`python -m replisync`."""

from replisync.cli import main

main()
