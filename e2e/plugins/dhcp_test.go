package plugins

import (
	"encoding/binary"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
)

// serveDHCP leases 10.60.0.7/24 to whoever asks (RFC 2131), in the namespace
// behind the uplink.
func serveDHCP(t *testing.T, far *node.Pod) {
	t.Helper()
	var conn *net.UDPConn
	must.Do(t, far.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 67})
		if err != nil {
			return err
		}
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
			_ = unix.BindToDevice(int(fd), "up1")
		})
	}))
	var served sync.WaitGroup
	t.Cleanup(func() { conn.Close(); served.Wait() })
	served.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			if answer := dhcpAnswer(buf[:n]); answer != nil {
				_, _ = conn.WriteToUDP(answer, &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
			}
		}
	})
}

// dhcpAnswer is an OFFER or ACK: the fixed part of the question with the address
// filled in, and the options that the client needs (RFC 2132).
func dhcpAnswer(question []byte) []byte {
	const fixed = 240 // with the magic cookie
	if len(question) < fixed {
		return nil
	}
	kind := byte(0)
	for o := question[fixed:]; len(o) > 2 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if o[0] == 53 {
			kind = o[2]
		}
		o = o[min(len(o), 2+int(o[1])):]
	}
	reply := map[byte]byte{1: 2, 3: 5}[kind] // DISCOVER: OFFER, REQUEST: ACK
	if reply == 0 {
		return nil
	}
	a := append([]byte(nil), question[:fixed]...)
	a[0] = 2 // BOOTREPLY
	copy(a[16:20], net.IPv4(10, 60, 0, 7).To4())
	copy(a[20:24], net.IPv4(10, 60, 0, 1).To4())
	option := func(code byte, value ...byte) { a = append(append(a, code, byte(len(value))), value...) }
	option(53, reply)
	option(54, 10, 60, 0, 1)
	option(51, binary.BigEndian.AppendUint32(nil, 3600)...)
	option(1, 255, 255, 255, 0)
	return append(a, 255)
}
