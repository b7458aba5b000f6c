// Package standin is the stand-in: a vswitch for machines where the real one
// cannot run. It serves the binary API of VPP over its unix socket, as far as
// plexus and its tests use it, with the return codes VPP 26.06 answers, real
// memif sockets behind it and bridge domains that forward frames. It shares no
// code with VPP.
//
// Start runs it in the process of a test, with State and Messages to look inside
// and Options.Faults to make it misbehave. The program rig/standin/serve runs it
// as a process that can be killed; StartProcess does that. Closing the stand-in
// is like killing it: all state is lost, socket files stay.
//
// What it does as VPP does:
//   - The message table handed to clients holds only what it knows.
//   - sw_if_index 0 is local0; indices count up, the lowest free one is taken.
//   - The startup configuration runs two seconds after the start, and ends at the
//     first command that fails.
//   - Memif socket 0 is there from the start. A socket id that failed to listen
//     (-14) has no listener even if memif_create answers success later, until
//     the id is deleted and added again. An id that failed can be deleted even
//     while an interface uses it. Deleting the last interface of a socket closes
//     it and leaves its file. A file name that somebody listens at, another id
//     for instance, is a listen failure.
//   - A network namespace in which it has listened at an abstract socket stays open until it
//     ends (VPP 24.10 to 26.10, clib_socket_init): with the pod gone the namespace lives on.
//   - Bridge domains learn and flood as their flags say; a member of a bridge
//     domain that does not exist creates it. Unicast to an unknown address needs
//     uu_flood, multicast and broadcast need flood. Split horizon groups hold.
//   - Tag rewrites work on ingress and the other way round on egress, for ports
//     and for sub-interfaces; pop and translate need a sub-interface (-72).
//   - An interface that is in no bridge domain and up answers ARP, neighbour
//     solicitations and ICMP echo requests for its addresses.
//
// # Limits
//
// It forwards between members of bridge domains only: tables and routes are
// kept and dumped, nothing is routed, and nothing is sent but answers. MAC
// addresses do not age, arp_term and arp_ufwd are kept without effect, MTUs too,
// as they mostly are without effect on bridged frames. A default MAC address is
// made from the socket file and the id of a memif and not random, so that State
// is the same after the same messages. There are no BVI and no loopback
// interfaces. A frame that does not fit into the ring of a peer waits up to 2 s
// for room, once until the peer takes frames again, where VPP drops it at once,
// so that tests see exact counts.
//
// vhost-user and tap interfaces exist for the API only: a vhost-user server's
// socket is there but lets nobody in, no device is made, no frame passes. Memif server interfaces take any number of
// queues of their client but send on the first. Relative memif file names are
// below Options.RuntimeDir.
package standin
