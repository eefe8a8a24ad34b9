#!/usr/bin/env bash
# Walks through a failover: the standby in SERVERDIR becomes the primary.
#
#   failover.sh [--dry-run] [--accept-loss]
#
#   --dry-run      shows what would be done; changes nothing
#   --accept-loss  goes on although the primary is known to have more, files are missing, or findings stand
#
# What it works on comes from the environment. The commands in it are run by bash. `replisync` is found on PATH:
# ln -s /opt/replisync/bin/replisync /usr/local/bin/
#
#   SERVERDIR      the standby                                   /var/lib/replisync/main
#   KEYFILE        from `replisync derive-key`                   /etc/replisync/main.key
#   FENCE          keeps users away from the old primary         nothing is done
#   STOP_FOLLOW    ends `replisync follow`                       systemctl stop replisync-follow@main
#   START_SERVER   starts devpi-server --role primary            systemctl start devpi-server@main
#   SERVER_URL     where that server answers                     http://127.0.0.1:3141
#   PRIMARY_WAIT   seconds to wait for the old primary           30
#   SERVER_WAIT    seconds to wait for the new one               60
#
# Ends with 0 when the new primary answers; else with the exit code of the step that failed.

set -euo pipefail

SERVERDIR=${SERVERDIR:-/var/lib/replisync/main}
KEYFILE=${KEYFILE:-/etc/replisync/main.key}
FENCE=${FENCE:-}
STOP_FOLLOW=${STOP_FOLLOW-systemctl stop replisync-follow@main}
START_SERVER=${START_SERVER-systemctl start devpi-server@main}
SERVER_URL=${SERVER_URL:-http://127.0.0.1:3141}
PRIMARY_WAIT=${PRIMARY_WAIT:-30}
SERVER_WAIT=${SERVER_WAIT:-60}

dry_run=
promote_options=()
for option in "$@"; do
    case $option in
        --dry-run) dry_run=yes ;;
        --accept-loss) promote_options+=(--accept-loss) ;;
        *) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done

step() { printf '\n== %s\n' "$*"; }

# Run a command that changes something; show it alone in a dry run.
change() {
    echo "\$ $*"
    if [[ -z $dry_run ]]; then "$@"; fi
}

# Print the serial of a primary, by its URL and UUID; fail where it does not answer itself. A replica of it, or a
# router before it, may answer in its place: both headers must have the primary's own UUID.
primary_serial() {
    python3 - "$1" "$2" <<'PYTHON'
import sys, urllib.request
url, uuid = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
request = urllib.request.Request(url.rstrip("/") + "/+api", headers={"Accept": "application/json"})
try:
    headers = opener.open(request, timeout=5).headers
except OSError:
    sys.exit(1)
primary = headers["X-DEVPI-PRIMARY-UUID"] or headers["X-DEVPI-MASTER-UUID"]
if not (headers["X-DEVPI-UUID"] == primary == uuid and headers["X-DEVPI-SERIAL"]):
    sys.exit(1)
print(headers["X-DEVPI-SERIAL"])
PYTHON
}

# Print one field of `replisync status --json`, without asking the primary.
standby_field() {
    replisync status --offline --json --serverdir "$SERVERDIR" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}

step "1. Where the standby stands"
replisync status --serverdir "$SERVERDIR"

step "2. Nobody writes to the old primary any more"
if [[ -n $FENCE ]]; then
    change bash -c "$FENCE"
else
    echo "FENCE is not set: make sure of it yourself"
fi

step "3. The follower ends"
if [[ -n $STOP_FOLLOW ]]; then change bash -c "$STOP_FOLLOW"; fi

step "4. What the old primary still has, if it answers"
code=0
change replisync catchup --serverdir "$SERVERDIR" --replica-keyfile "$KEYFILE" --timeout "$PRIMARY_WAIT" || code=$?
case $code in
    0) ;;
    3 | 9) echo "it does not answer itself, or does not give a file: the standby stays at serial $(standby_field serial)" ;;
    *) exit "$code" ;;
esac

step "5. The promotion"
promote=(replisync promote --serverdir "$SERVERDIR" "${promote_options[@]}")
if [[ -n $dry_run ]]; then
    echo "\$ ${promote[*]} --dry-run"
    "${promote[@]}" --dry-run || echo "as things stand now it would end with exit code $?"
else
    change "${promote[@]}"
fi

step "6. The new primary"
wanted=$(standby_field serial) uuid=$(standby_field uuid)
if [[ -n $START_SERVER ]]; then change bash -c "$START_SERVER"; fi
if [[ -n $dry_run ]]; then
    echo "dry run: nothing was changed"
    exit 0
fi
deadline=$((SECONDS + SERVER_WAIT))
until serial=$(primary_serial "$SERVER_URL" "$uuid"); do
    if ((SECONDS >= deadline)); then
        echo "failover: the new primary does not answer at $SERVER_URL after $SERVER_WAIT seconds" >&2
        exit 1
    fi
    sleep 0.2
done
if ((serial < wanted)); then
    echo "failover: $SERVER_URL is at serial $serial, the standby was at $wanted" >&2
    exit 1
fi
echo "$SERVER_URL is the primary now, at serial $serial"
