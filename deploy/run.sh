#!/bin/sh
# run.sh LATPUSH RECEIVER: runs the agent against the receiver, both on this machine and in a temporary folder, until Ctrl-C or until one of them
# ends. The receiver prints the address of its page and what arrives.
set -eu
latpush=$1 receiver=$2 address=127.0.0.1:${LATPUSH_RUN_PORT:-9099}
[ "$(id -u)" = 0 ] || { echo "make run: programs can be loaded into the kernel by root alone (try sudo make run)" >&2; exit 1; }
folder=$(mktemp -d)
agent_pid='' receiver_pid=''
# shellcheck disable=SC2317 # the traps run it
finish() {
	trap '' INT TERM
	[ -z "$agent_pid" ] || { kill -TERM "$agent_pid" 2>/dev/null && wait "$agent_pid"; } || true
	[ -z "$receiver_pid" ] || { kill -TERM "$receiver_pid" 2>/dev/null && wait "$receiver_pid"; } || true
	rm -rf "$folder"
}
trap 'finish; exit 0' INT TERM
trap finish EXIT

cat > "$folder/latpush.yml" <<CONFIG
interval: 5s
max_cpu: 10%
pin_path: ""
remote_write:
  - url: http://$address/api/v1/write
spool:
  directory: $folder/spool
CONFIG
# Sessions of their own: Ctrl-C reaches this script alone, which then stops the agent before the receiver that its last sample goes to.
setsid "$receiver" --web.listen-address="$address" --summary --log.level=warn &
receiver_pid=$!
setsid "$latpush" run --config.file="$folder/latpush.yml" --log.level=warn &
agent_pid=$!
while kill -0 "$agent_pid" 2>/dev/null && kill -0 "$receiver_pid" 2>/dev/null; do sleep 1; done
echo "make run: one of the two programs ended; see the message above" >&2
exit 1
