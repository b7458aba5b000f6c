package standin

import (
	"fmt"
	"net"
	"os"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/tapv2"
	"go.fd.io/govpp/binapi/vhost_user"
	"go.fd.io/govpp/binapi/vpe"
)

// register adds all messages. Their numbers follow from the order.
func (s *Server) register() {
	s.registerClients()
	one(s.table, func(*vpe.ShowVersion) *vpe.ShowVersionReply {
		return &vpe.ShowVersionReply{Program: "stand-in", Version: s.options.Version}
	})
	v := s.vswitch
	v.registerMemif(s.table)
	v.registerInterfaces(s.table)
	v.registerBridges(s.table)
	v.registerAddresses(s.table)
	v.registerTables(s.table)
	v.registerVhost(s.table)
	v.registerTap(s.table)
}

func (v *vswitch) registerVhost(t *table) {
	one(t, func(m *vhost_user.CreateVhostUserIfV2) *vhost_user.CreateVhostUserIfV2Reply {
		reply := &vhost_user.CreateVhostUserIfV2Reply{}
		m.SockFilename = cString(m.SockFilename)
		if m.SockFilename == "" {
			reply.Retval = int32(api.INVALID_ARGUMENT)
			return reply
		}
		number := 0
		for _, i := range v.sorted(kindVhost) {
			if i.vhost.SockFilename == m.SockFilename {
				reply.Retval = int32(api.IF_ALREADY_EXISTS)
				return reply
			}
			if i.name == vhostName(number) {
				number++
			}
		}
		i := &iface{kind: kindVhost, name: vhostName(number), tag: cut(cString(m.Tag)), vhost: m, mac: madeMAC(m.SockFilename)}
		if m.Renumber {
			i.name = vhostName(int(m.CustomDevInstance))
		}
		if m.UseCustomMac {
			i.mac = macOf(m.MacAddress)
		}
		if m.IsServer {
			if i.listener, reply.Retval = listenVhost(m.SockFilename); reply.Retval != success {
				return reply
			}
		}
		reply.SwIfIndex = interface_types.InterfaceIndex(v.add(i).index)
		return reply
	})
	one(t, func(m *vhost_user.DeleteVhostUserIf) *vhost_user.DeleteVhostUserIfReply {
		if i := v.of(m.SwIfIndex, kindVhost); i != nil && i.listener != nil {
			i.listener.SetUnlinkOnClose(true)
			_ = i.listener.Close()
		}
		return &vhost_user.DeleteVhostUserIfReply{Retval: v.deleteKind(m.SwIfIndex, kindVhost)}
	})
	dump(t, func(m *vhost_user.SwInterfaceVhostUserDump) (all []*vhost_user.SwInterfaceVhostUserDetails) {
		for _, i := range v.sorted(kindVhost) {
			if uint32(m.SwIfIndex) == unset || uint32(m.SwIfIndex) == i.index {
				all = append(all, &vhost_user.SwInterfaceVhostUserDetails{SwIfIndex: interface_types.InterfaceIndex(i.index),
					InterfaceName: i.name, IsServer: i.vhost.IsServer, SockFilename: i.vhost.SockFilename})
			}
		}
		return all
	})
}

// listenVhost replaces what is at the path, as VPP does.
func listenVhost(path string) (*net.UnixListener, int32) {
	_ = os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		return nil, int32(api.SYSCALL_ERROR_2)
	}
	l.SetUnlinkOnClose(false)
	return l, success
}

func vhostName(number int) string { return fmt.Sprintf("VirtualEthernet0/0/%d", number) }

// deleteKind deletes an interface if it is of a kind.
func (v *vswitch) deleteKind(index interface_types.InterfaceIndex, k kind) int32 {
	i := v.of(index, k)
	if i == nil {
		return int32(api.INVALID_SW_IF_INDEX)
	}
	v.remove(i)
	return success
}

func (v *vswitch) registerTap(t *table) {
	one(t, func(m *tapv2.TapCreateV3) *tapv2.TapCreateV3Reply {
		taken := map[uint32]bool{}
		for _, i := range v.sorted(kindTap) {
			taken[i.tap.ID] = true
		}
		if m.ID == unset {
			for m.ID = 0; taken[m.ID]; m.ID++ {
			}
		}
		reply := &tapv2.TapCreateV3Reply{SwIfIndex: interface_types.InterfaceIndex(unset)}
		if taken[m.ID] {
			reply.Retval = int32(api.INVALID_INTERFACE)
			return reply
		}
		i := &iface{kind: kindTap, name: fmt.Sprintf("tap%d", m.ID), tag: cut(cString(m.Tag)), tap: m}
		if !m.UseRandomMac {
			i.mac = macOf(m.MacAddress)
		}
		reply.SwIfIndex = interface_types.InterfaceIndex(v.add(i).index)
		return reply
	})
	one(t, func(m *tapv2.TapDeleteV2) *tapv2.TapDeleteV2Reply {
		return &tapv2.TapDeleteV2Reply{Retval: v.deleteKind(m.SwIfIndex, kindTap)}
	})
	dump(t, func(m *tapv2.SwInterfaceTapV2Dump) (all []*tapv2.SwInterfaceTapV2Details) {
		for _, i := range v.sorted(kindTap) {
			if uint32(m.SwIfIndex) != unset && uint32(m.SwIfIndex) != i.index {
				continue
			}
			all = append(all, &tapv2.SwInterfaceTapV2Details{SwIfIndex: i.index, ID: i.tap.ID, DevName: i.name,
				TxRingSz: i.tap.TxRingSz, RxRingSz: i.tap.RxRingSz, HostMtuSize: i.tap.HostMtuSize, HostMacAddr: i.tap.HostMacAddr,
				HostIP4Prefix: i.tap.HostIP4Prefix, HostIP6Prefix: i.tap.HostIP6Prefix, TapFlags: i.tap.TapFlags,
				HostIfName: cString(i.tap.HostIfName), HostNamespace: cString(i.tap.HostNamespace), HostBridge: cString(i.tap.HostBridge)})
		}
		return all
	})
}
