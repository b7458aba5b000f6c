#!/bin/sh
# Installs the Debian packages given, those that are missing. Services that come
# with them are not started: the tests start what they need in a node of their own.
set -eu
missing=""
for p in "$@"; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "packages are missing:$missing: run as root, or install them yourself" >&2
	exit 1
fi
if ! command -v apt-get >/dev/null; then
	echo "packages are missing and this is no Debian:$missing: install what they hold" >&2
	exit 1
fi
echo "installing$missing"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
log=$(mktemp)
if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -20 "$log" >&2
	rm -f "$log"
	echo "could not install$missing: see above; is the network up?" >&2
	exit 1
fi
rm -f "$log"
