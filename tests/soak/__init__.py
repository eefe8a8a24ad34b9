"""A long run with everything that goes wrong: `make soak`.

It starts a primary with devpi-web, an upstream that the primary mirrors, and a PostgreSQL. One standby in
each storage follows through a proxy. Meanwhile, at random:

- users upload, replace, delete, push and register; create, change and delete indexes, mirrors and users;
  upload documentation and tox results; fetch files of mirrors;
- the proxy cuts, stalls, slows, resets, replaces, rejects and damages answers of the primary;
- the primary is killed, stopped and frozen, its upstream fails, and PostgreSQL is killed;
- each follow, catchup and rewind is killed after seconds; now and then one lives longer, or ends by
  SIGTERM;
- new clones into either storage, from the primary or its serverdir, are killed, finished and caught up.

The state after each kill is judged at once. Every 30 seconds `verify --level full` runs and must find
nothing. Every 2.5 minutes a copy of a standby is promoted, a stock devpi-server starts on it, pip installs
from it, and a package is uploaded to it. In every other drill the faults pause, and both standbys must
equal the primary, exports included. A run that ends by itself must have a reason: exit code 4 is excused by
a proxy that says 403, and by nothing else. The memory of the followers must not grow with the serials.

The last line on stdout has the figures. A failure exits with 1, keeps the folder, and names it and the seed
on stderr.
"""
