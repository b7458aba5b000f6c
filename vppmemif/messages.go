package vppmemif

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/binapi/vhost_user"
	"go.fd.io/govpp/binapi/vpe"
)

// messages are those that plexus sends and reads for every attachment. VPP has to speak
// them as plexus does.
func messages() []api.Message {
	return []api.Message{
		&memif.MemifSocketFilenameAddDelV2{}, &memif.MemifSocketFilenameAddDelV2Reply{},
		&memif.MemifSocketFilenameDump{}, &memif.MemifSocketFilenameDetails{},
		&memif.MemifCreateV2{}, &memif.MemifCreateV2Reply{}, &memif.MemifDelete{}, &memif.MemifDeleteReply{},
		&memif.MemifDump{}, &memif.MemifDetails{},
		&interfaces.SwInterfaceSetFlags{}, &interfaces.SwInterfaceSetFlagsReply{},
		&interfaces.SwInterfaceSetMtu{}, &interfaces.SwInterfaceSetMtuReply{},
		&interfaces.SwInterfaceSetMacAddress{}, &interfaces.SwInterfaceSetMacAddressReply{},
		&interfaces.SwInterfaceTagAddDel{}, &interfaces.SwInterfaceTagAddDelReply{},
		&interfaces.SwInterfaceDump{}, &interfaces.SwInterfaceDetails{},
		&interfaces.SwInterfaceAddDelAddress{}, &interfaces.SwInterfaceAddDelAddressReply{},
		&interfaces.SwInterfaceSetTable{}, &interfaces.SwInterfaceSetTableReply{},
		&l2.BridgeDomainAddDelV2{}, &l2.BridgeDomainAddDelV2Reply{}, &l2.BridgeDomainDump{}, &l2.BridgeDomainDetails{},
		&l2.SwInterfaceSetL2Bridge{}, &l2.SwInterfaceSetL2BridgeReply{},
		&l2.L2InterfaceVlanTagRewrite{}, &l2.L2InterfaceVlanTagRewriteReply{},
		&memclnt.ControlPing{}, &memclnt.ControlPingReply{},
		&ip.IPRouteAddDel{}, &ip.IPRouteAddDelReply{},
	}
}

// layer3Messages are those by which the L3 of an attachment is read.
func layer3Messages() []api.Message {
	return []api.Message{
		&interfaces.SwInterfaceGetTable{}, &interfaces.SwInterfaceGetTableReply{},
		&ip.IPAddressDump{}, &ip.IPAddressDetails{}, &ip.IPRouteDump{}, &ip.IPRouteDetails{},
	}
}

// routeMessages are those by which routes without a record are read.
func routeMessages() []api.Message {
	return []api.Message{&ip.IPTableDump{}, &ip.IPTableDetails{}, &ip.IPRouteDump{}, &ip.IPRouteDetails{}}
}

// vhostMessages are those of vhost-user, a plugin of VPP that memif does without.
func vhostMessages() []api.Message {
	return []api.Message{
		&vhost_user.CreateVhostUserIfV2{}, &vhost_user.CreateVhostUserIfV2Reply{},
		&vhost_user.DeleteVhostUserIf{}, &vhost_user.DeleteVhostUserIfReply{},
		&vhost_user.SwInterfaceVhostUserDump{}, &vhost_user.SwInterfaceVhostUserDetails{},
	}
}

// unknown are the messages that VPP does not know by name and CRC.
func (c *connection) unknown(messages ...api.Message) (names []string) {
	for _, m := range messages {
		if _, err := c.transport.GetMsgID(m.GetMessageName(), m.GetCrcString()); err != nil {
			names = append(names, m.GetMessageName()+"_"+m.GetCrcString())
		}
	}
	return names
}

// compatible checks that VPP knows the messages.
func (c *connection) compatible(ctx context.Context, messages ...api.Message) error {
	names := c.unknown(messages...)
	if len(names) == 0 {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	version := "unknown"
	if reply, err := vpe.NewServiceClient(c).ShowVersion(bounded, &vpe.ShowVersion{}); err == nil {
		version = reply.Version
	}
	return fmt.Errorf("VPP %s does not speak the messages %v as plexus does: plexus works with VPP 24.10 to 26.06", version, names)
}

// Codes as VPP answers them to the messages that plexus sends, measured.
const (
	codeNoInterface = api.INVALID_SW_IF_INDEX // -2
	codeNone        = api.NO_SUCH_ENTRY       // -6: bridge domain missing
	codeNoFIB       = api.NO_SUCH_FIB         // -3: table missing
	codeNoPath      = api.NO_MATCHING_INTERFACE
	codeListen      = api.SYSCALL_ERROR_4   // -14: the socket cannot be listened on; its number is of no use then
	codeBDExists    = api.BD_ALREADY_EXISTS // -119
	codeBDUsed      = api.BD_IN_USE         // -120
)

// isCode reports whether VPP answered with one of the codes.
func isCode(err error, codes ...api.VPPApiError) bool {
	var code api.VPPApiError
	return errors.As(err, &code) && slices.Contains(codes, code)
}
