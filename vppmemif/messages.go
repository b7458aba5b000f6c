package vppmemif

import (
	"context"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/binapi/vhost_user"
	"go.fd.io/govpp/binapi/vpe"
)

// messages are the requests that plexus sends for every attachment. VPP has to speak them,
// and the answers, as plexus does.
func messages() []api.Message {
	return []api.Message{
		&memif.MemifSocketFilenameAddDelV2{}, &memif.MemifSocketFilenameDump{},
		&memif.MemifCreateV2{}, &memif.MemifDelete{}, &memif.MemifDump{},
		&interfaces.SwInterfaceSetFlags{}, &interfaces.SwInterfaceSetMtu{}, &interfaces.SwInterfaceSetMacAddress{},
		&interfaces.SwInterfaceTagAddDel{}, &interfaces.SwInterfaceDump{},
		&interfaces.SwInterfaceAddDelAddress{}, &interfaces.SwInterfaceSetTable{},
		&l2.BridgeDomainAddDelV2{}, &l2.BridgeDomainDump{}, &l2.SwInterfaceSetL2Bridge{}, &l2.L2InterfaceVlanTagRewrite{},
		&memclnt.ControlPing{}, &ip.IPRouteAddDel{},
	}
}

// layer3Messages are those by which the L3 of an attachment is read.
func layer3Messages() []api.Message {
	return []api.Message{&interfaces.SwInterfaceGetTable{}, &ip.IPAddressDump{}, &ip.IPRouteLookupV2{}}
}

// routeMessages are those by which routes without a record are read.
func routeMessages() []api.Message { return []api.Message{&ip.IPTableDump{}, &ip.IPRouteDump{}} }

// vhostMessages are those of vhost-user, a plugin of VPP that memif does without.
func vhostMessages() []api.Message {
	return []api.Message{&vhost_user.CreateVhostUserIfV2{}, &vhost_user.DeleteVhostUserIf{}, &vhost_user.SwInterfaceVhostUserDump{}}
}

// unknown are the messages that VPP does not know by name and CRC, of requests and of the
// answers to them.
func (c *connection) unknown(requests ...api.Message) (names []string) {
	asked := map[string]bool{}
	for _, r := range requests {
		asked[r.GetMessageName()] = true
	}
	for _, messages := range api.GetRegisteredMessages() {
		for id, m := range messages {
			name := m.GetMessageName()
			request, isReply := strings.CutSuffix(name, "_reply")
			dump, isDetail := strings.CutSuffix(name, "_details")
			used := asked[name] || isReply && asked[request] || isDetail && asked[dump+"_dump"]
			if _, known := c.ids[id]; used && !known {
				names = append(names, id)
			}
		}
	}
	slices.Sort(names)
	return names
}

// compatible checks that VPP knows the messages.
func (c *connection) compatible(ctx context.Context, messages ...api.Message) error {
	names := c.unknown(messages...)
	if len(names) == 0 {
		return nil
	}
	version := "unknown"
	_, _, _ = c.exchange(ctx, replyTimeout, request{message: &vpe.ShowVersion{}, done: func(reply api.Message) {
		version = reply.(*vpe.ShowVersionReply).Version
	}})
	if file := c.missingPlugin(messages); file != "" {
		return fmt.Errorf("VPP %s has not loaded %[2]s: put \"plugins { plugin %[2]s { enable } }\" into its startup configuration", version, file)
	}
	return fmt.Errorf("VPP %s does not speak the messages %v as plexus does: plexus works with VPP 24.10 to 26.10", version, names)
}

// plugins are the files of VPP's plugins by the modules of their messages. Other modules are of
// VPP itself.
var plugins = map[string]string{"memif": "memif_plugin.so", "vhost_user": "vhost_plugin.so"}

// missingPlugin is the file of a plugin that messages need and none of whose messages VPP
// knows, by any CRC; "" when there is none.
func (c *connection) missingPlugin(messages []api.Message) string {
	known := map[string]bool{} // by the name of a message
	for id := range c.ids {
		known[id[:max(0, strings.LastIndex(id, "_"))]] = true
	}
	missing := map[string]bool{} // by module
	for _, m := range messages {
		missing[moduleOf(m)] = true
	}
	for _, registered := range api.GetRegisteredMessages() {
		for _, m := range registered {
			if known[m.GetMessageName()] {
				delete(missing, moduleOf(m))
			}
		}
	}
	for module := range missing {
		if file := plugins[module]; file != "" {
			return file
		}
	}
	return ""
}

// moduleOf is the .api file of a message, without its ending.
func moduleOf(m api.Message) string { return path.Base(reflect.TypeOf(m).Elem().PkgPath()) }

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
