// Package memif speaks the memif protocol, version 2.0, in both roles, and runs
// the peers that tests put at the other end of a memif of a vswitch.
//
// An Interface is one end of a memif: Listen and Listener.Open make the server
// (VPP calls it master), Connect the client (slave). A Peer is an Interface that
// sends numbered test frames and tallies exactly what it receives. Testpmd is
// the same with the memif driver of DPDK, a process of its own.
//
// The wire format and the shared memory are as the memif protocol has them
// (https://docs.fd.io/vpp, "Packet Memory Interface"): control messages of 128
// bytes over a SOCK_SEQPACKET unix socket, one eventfd a ring, regions passed
// as file descriptors.
//
// The Go library gomemif takes part as a peer (Options.Gomemif) to check this
// package against somebody else's code. It is not the base of it because
//   - its sockets cannot get or lose an interface while they are polled,
//   - an interrupt is always taken for the interface added last to a socket,
//   - its client uses the same buffers for sending and for receiving, so that
//     traffic both ways at a time corrupts frames,
//   - frames longer than 2048 bytes are corrupted,
//   - its client sends no secret, and it closes no control connection,
//   - it neither unlinks stale sockets nor listens on abstract ones.
//
// # Limits
//
// Little-endian machines only. A server sends on queue 0 of its peer only and
// receives from all; a client has one queue pair unless told otherwise. A frame
// may span buffers; what is longer than MaxFrame is dropped. When the ring of a
// peer is full a sender waits a moment (see Interface.Send): a switch would
// drop, tests want exact counts. Zero-copy, DMA and the mode punt-inject are
// not there.
package memif
