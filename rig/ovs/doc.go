// Package ovs runs a real Open vSwitch with its DPDK datapath, and real virtio
// devices against it, for tests, benchmarks and demos. It needs neither
// hugepages nor a network card nor the openvswitch kernel module: the memory of
// DPDK is ordinary memory and the ports are vhost-user sockets.
//
// A Switch is the database server and the switch daemon, with all their files
// in one folder. A Peer is what a virtual machine or a pod with a DPDK
// application is to the switch: a process (dpdk-testpmd) that owns the other
// end of a vhost-user socket, and sends, counts or echoes frames.
//
// It is meant to be used inside a node of package rig/node: the daemon makes
// network devices (ovs-netdev and one for each bridge) in the network namespace
// of its caller, so that only one Switch with a daemon can run in a namespace
// at a time.
package ovs
