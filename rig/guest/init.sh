#!/usr/bin/busybox sh
# Process 1 of the guest. ttyS0 is the console, ttyS1 what the program prints;
# on ttyS2 the host is told of "up SECONDS", "exit STATUS" or "fail REASON".
export PATH=/usr/sbin:/usr/bin:/opt/cni/bin HOME=/root PLEXUS_GUEST=1

end() {
	stty -F /dev/ttyS1 raw # returns once all that was printed has gone out
	echo "$*" >&3
	stty -F /dev/ttyS2 raw
	poweroff -f # the host does not wait for it: it takes seconds
}
uptime() { cut -d' ' -f1 /proc/uptime; }

# Waits 30 s for a command to succeed, fails with the reason given else.
await() {
	reason=$1 tries=0
	shift
	until "$@" 2>/dev/null; do
		[ $tries -lt 600 ] || end "fail $reason"
		tries=$((tries + 1))
		sleep 0.05
	done
}
pf_up() { ip link set "$(ls "$1/net")" up; }
vfs_there() { [ "$(ls -d "$1"/virtfn*/net/* | wc -l)" = "$2" ]; }

mount -t devtmpfs dev /dev
exec 3>/dev/ttyS2
stty -F /dev/ttyS1 raw
stty -F /dev/ttyS2 raw
[ -e /guest/.run ] || end "fail the initramfs did not fit into the memory: give -memory more" # it is unpacked last
mkdir -p /dev/pts /dev/shm
mount -t proc proc /proc &&
	mount -t sysfs sys /sys &&
	mount -t devpts devpts /dev/pts &&
	mount -t tmpfs shm /dev/shm &&
	mount -t tmpfs -o mode=755 run /run &&
	mount -t tmpfs tmp /tmp &&
	mount -t cgroup2 cgroup /sys/fs/cgroup || end "fail could not mount the file systems"
mkdir -p /run/netns /run/lock
hostname plexus-guest
ip link set lo up

for m in $(cat /etc/modules); do
	modprobe "$m" || end "fail could not load module $m"
done
# $guest_pfs and $guest_vfs come from the kernel's command line. VFs come first: a
# PF that gets some loses its carrier for a while.
pfs=$(ls -d /sys/bus/pci/devices/*/sriov_numvfs 2>/dev/null | sed 's,/sriov_numvfs,,')
[ "$(echo $pfs | wc -w)" = "$guest_pfs" ] || end "fail $(echo $pfs | wc -w) of $guest_pfs PFs are there"
for pf in $pfs; do
	[ "$guest_vfs" = 0 ] || echo "$guest_vfs" >"$pf/sriov_numvfs" || end "fail PF ${pf##*/} refuses $guest_vfs VFs"
done
for pf in $pfs; do
	await "PF ${pf##*/} does not come up" pf_up "$pf"
done
for pf in $pfs; do
	await "the $guest_vfs VFs of PF ${pf##*/} have no links" vfs_there "$pf" "$guest_vfs"
done
for pf in $pfs; do
	await "PF ${pf##*/} has no carrier" grep -q 1 "$pf"/net/*/carrier
done
unset guest_pfs guest_vfs

echo "up $(uptime)" >&3
cd /guest
sh /guest/.run </dev/null >/dev/ttyS1 2>&1 3>&-
end "exit $?"
