#!/bin/sh
# A stand-in for kubectl: the pods of $FAKE/pods.json, each with plexusctl (the
# test's own executable) and the root of its node at $FAKE/POD.
echo "$*" >>"$FAKE/calls"
while :; do
	case "$1" in
	--context=* | --kubeconfig=*) shift ;;
	*) break ;;
	esac
done
case "$1 $2" in
"get pods") cat "$FAKE/pods.json" ;;
"get pod") cat "$FAKE/pod-$5-$3.json" 2>/dev/null || { echo "Error from server (NotFound): pods \"$3\" not found" >&2; exit 1; } ;;
"config view") cat "$FAKE/namespace" 2>/dev/null ;;
"exec -n")
	# exec -n NAMESPACE POD -c agent -- /plexusctl --host /host ...
	[ "$5 $6 $7 $8 $9" = "-c agent -- /plexusctl --host" ] || { echo "unexpected: $*" >&2; exit 2; }
	pod=$4
	[ -e "$FAKE/$pod/hangs" ] && exec sleep 600
	[ -e "$FAKE/$pod/broken" ] && { echo "error: Internal error occurred: unable to upgrade connection" >&2; exit 1; }
	[ -e "$FAKE/$pod/chatters" ] && { echo "not JSON"; exit 0; }
	shift 10
	AS_PLEXUSCTL=1 "$PROGRAM" --host "$FAKE/$pod" "$@" && exit
	status=$?
	echo "command terminated with exit code $status" >&2
	exit $status
	;;
*) echo "unexpected: $*" >&2; exit 2 ;;
esac
