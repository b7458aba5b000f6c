#!/bin/sh
# Installs what bin/guest needs, as far as it is missing. The guest's network
# card, igb, is emulated by QEMU 8.0 and later: a Debian whose own QEMU is older
# gets it from its backports, which need not be among the machine's sources and
# are not added to them.
set -eu
here=$(dirname "$0")
"$here/../packages.sh" busybox-static ethtool iproute2 iputils-ping kmod libc-bin xz-utils

has_igb() { qemu-system-x86_64 -device help 2>/dev/null | grep -q '^name "igb"'; }

! has_igb || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "a qemu-system-x86_64 with the device igb (8.0 or later) is missing: run as root, or install it yourself" >&2
	exit 1
fi
echo "installing qemu-system-x86"
tmp=$(mktemp -d)
policy=/usr/sbin/policy-rc.d
[ ! -e "$policy" ] || policy=
trap 'rm -rf "$tmp" $policy' EXIT
trap 'exit 1' INT TERM
if [ -n "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

# The machine's sources are copied, so that one can be added; the lists that are
# fetched for them, and what apt keeps of those, go with the folder.
chmod 755 "$tmp"
mkdir -p "$tmp/lists/partial" "$tmp/parts"
: >"$tmp/sources.list"
[ ! -e /etc/apt/sources.list ] || cp /etc/apt/sources.list "$tmp/"
cp /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources "$tmp/parts/" 2>/dev/null || :
export DEBIAN_FRONTEND=noninteractive
apt() {
	tool=$1
	shift
	"$tool" -q -o Dir::Etc::SourceList="$tmp/sources.list" -o Dir::Etc::SourceParts="$tmp/parts" \
		-o Dir::State::Lists="$tmp/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
}
try() {
	"$@" >"$tmp/log" 2>&1 && return
	tail -20 "$tmp/log" >&2
	echo "could not install a qemu-system-x86 with the device igb: see above; is the network up?" >&2
	exit 1
}

# backports adds the source of Debian's backports: the entry of the release itself,
# which apt points to, one-line or deb822, with its mirror and key but the other suite.
backports() {
	entry=$(apt apt-get indextargets --format '$(SOURCESENTRY) $(REPO_URI)' 'Created-By: Packages' \
		'Origin: Debian' 'Label: Debian' 'Component: main' "Codename: $release" | head -1)
	file=${entry%%:[0-9]* *}
	case $file in
	*.sources)
		awk -v uri="${entry#* }" -v suite="$release" '
			BEGIN { RS = ""; FS = "\n"; sub("/$", "", uri) }
			!n && index($0, uri) && $0 ~ "(^|\n)Suites:([^\n]*[ \t])?" suite "([ \t\n]|$)" {
				for (n = 1; n <= NF; n++) {
					if ($n !~ /^[ \t#]/) drop = $n ~ /^Suites:/
					if (!drop) print $n
				}
				print "Suites: " suite "-backports"
			}' "$file" >"$tmp/parts/guest-backports.sources"
		;;
	*.list)
		line=${entry#"$file":}
		sed -n "${line%% *}s/[[:space:]]$release[[:space:]]/ $release-backports /p" "$file" >"$tmp/parts/guest-backports.list"
		;;
	esac
	if ! cat "$tmp"/parts/guest-backports.* 2>/dev/null | grep -q .; then
		echo "no source of Debian's own release was found in /etc/apt: install a qemu-system-x86 of 8.0 or later yourself" >&2
		exit 1
	fi
}

try apt apt-get update
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
target=
if dpkg --compare-versions "$(apt apt-cache policy qemu-system-x86 | awk '/Candidate:/ { print $2 }')" lt 1:8.0; then
	backports
	target=$release-backports
	try apt apt-get update
fi
try apt apt-get install -y --no-install-recommends ${target:+-t "$target"} qemu-system-x86
if ! has_igb; then
	echo "qemu-system-x86_64 still has no device igb: install a qemu-system-x86 of 8.0 or later yourself" >&2
	exit 1
fi
