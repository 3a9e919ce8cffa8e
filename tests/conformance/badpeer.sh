#!/bin/sh
# The suite against servers that are no brokers: it must fail, say so, and
# come to an end.  Prints a line for each kind of server.
# Usage, from the top of the tree: tests/conformance/badpeer.sh
suite=build/conformance
badpeer=build/badpeer
limit=300 # seconds
bad=0
peer=
run=
watch=
work=$(mktemp -d "${TMPDIR:-/tmp}/holdfast-badpeer-XXXXXX") || exit 2

stop() {
	for pid in $watch $run $peer
	do
		kill "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	peer=
	run=
	watch=
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' HUP INT PIPE TERM

# Starts the server; sets port.
start() {
	$badpeer "$1" >"$work/port" &
	peer=$!
	tries=0
	until grep -q '^port' "$work/port" || [ "$tries" -ge 10 ]
	do
		tries=$((tries + 1))
		sleep 1
	done
	port=$(sed -n 's/^port //p' "$work/port")
}

# Sets status and seconds.  A suite that does not end is killed, which shows
# in its status.
run_suite() {
	began=$(date +%s)
	$suite --broker "127.0.0.1:$port" --jobs 150 >"$work/out" \
		2>"$work/err" &
	run=$!
	{
		n=0
		while [ "$n" -lt "$limit" ]
		do
			sleep 1
			n=$((n + 1))
		done
		kill -KILL "$run"
	} &
	watch=$!
	wait "$run"
	status=$?
	run=
	seconds=$(($(date +%s) - began))
}

# What is wrong with the end of the run, or nothing.
fault() {
	last=$(tail -n 1 "$work/out")
	case $status in
	1)
		case $last in
		"251 statements:"*) ;;
		*) echo "no summary: $last" ;;
		esac
		;;
	2)
		last=$(tail -n 1 "$work/err")
		case $last in
		"conformance: "?*) ;;
		*) echo "no reason: $last" ;;
		esac
		;;
	0) echo "nothing failed" ;;
	*) echo "exit status $status" ;;
	esac
}

for mode in garbage random hang half
do
	start "$mode"
	run_suite
	what=$(fault)
	if [ -z "$what" ]
	then
		printf 'ok     %-8s status %s after %s s\n' "$mode" \
			"$status" "$seconds"
	else
		printf 'FAILED %-8s %s; after %s s\n' "$mode" "$what" \
			"$seconds"
		bad=1
	fi
	stop
done
exit "$bad"
