#!/bin/sh
# Makes a node of the namespaces it is started in, mount, network and process, and
# becomes its first process: node.sh FOLDER PAUSE. Nothing of it is seen outside.
set -eu
rig=$1 pause=$2
cd "$rig"
mount --make-rprivate /
mount -t proc proc /proc

# What is written below these stays in the rig's folder.
for d in etc opt var; do
	mkdir -p "node/$d" "node/$d.work"
	mount -t overlay overlay -o "lowerdir=/$d,upperdir=$rig/node/$d,workdir=$rig/node/$d.work" "/$d"
done
mount -t tmpfs -o mode=755,nosuid tmpfs /run
mkdir -p /run/lock /run/netns
if [ "$(readlink -f /var/run)" != /run ]; then
	rm -rf /var/run
	ln -s /run /var/run
fi
# The rig's folder itself may be below one of those. Its path would be looked up anew,
# and wrongly, but for -c.
mkdir -p "$rig"
mount -c --bind . "$rig"
cd "$rig"

# kubelet and containerd need a file system below them that is no overlay, and a node
# has none below its CNI plugins' data either; the folders of CNI are the test's to fill.
for d in node/kubelet:/var/lib/kubelet node/containerd:/var/lib/containerd node/plexus:/var/lib/plexus node/cni:/var/lib/cni cni/net.d:/etc/cni/net.d cni/bin:/opt/cni/bin; do
	mkdir -p "${d%%:*}" "${d#*:}"
	mount --bind "${d%%:*}" "${d#*:}"
done
rm -f /etc/resolv.conf # may be a link to what /run held
echo 'nameserver 10.96.0.10' >/etc/resolv.conf

# A sysfs that shows this network namespace, with the machine's control groups.
mkdir -p node/cgroup
mount --rbind /sys/fs/cgroup node/cgroup
umount -R /sys
mount -t sysfs sysfs /sys
mount --rbind node/cgroup /sys/fs/cgroup
umount -R node/cgroup

# kubelet sets these for the whole machine unless they read as it wants them.
tunable() {
	mkdir -p "node/sysctl/${1%/*}"
	echo "$2" >"node/sysctl/$1"
	mount --bind "node/sysctl/$1" "/proc/sys/$1"
}
tunable vm/overcommit_memory 1
tunable vm/panic_on_oom 0
tunable kernel/panic 10
tunable kernel/panic_on_oops 1
tunable kernel/keys/root_maxkeys 1000000
tunable kernel/keys/root_maxbytes 25000000

mount --make-rshared /
echo 1 >/proc/sys/net/ipv4/ip_forward
ip link set lo up
: >node/ready
exec "$pause"
