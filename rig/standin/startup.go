package standin

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.fd.io/govpp/adapter/socketclient"
	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/l2"
	binmemif "go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/core"
)

// startupDelay is the time from the start to the first command of the startup configuration.
const startupDelay = 2 * time.Second

// startUp executes Options.Startup. It ends at the first command that fails, as VPP does, and
// says so on standard error.
func (s *Server) startUp() {
	defer s.work.Done()
	select {
	case <-s.vswitch.gone:
		return
	case <-time.After(startupDelay):
	}
	if err := s.execute(s.options.Startup); err != nil {
		fmt.Fprintln(os.Stderr, "stand-in: startup configuration:", err)
	}
}

// execute executes the commands of a file, by the API.
func (s *Server) execute(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	conn, err := core.Connect(socketclient.NewVppClient(s.socket))
	if err != nil {
		return err
	}
	defer conn.Disconnect()
	ch, err := conn.NewAPIChannel()
	if err != nil {
		return err
	}
	defer ch.Close()
	for line := range strings.Lines(string(data)) {
		request, reply, err := s.command(strings.TrimSpace(line))
		if err == nil && request != nil {
			err = ch.SendRequest(request).ReceiveReply(reply)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", strings.TrimSpace(line), err)
		}
	}
	return nil
}

// command is the request of a command of VPP's CLI. It knows those that tests use.
func (s *Server) command(line string) (request, reply api.Message, err error) {
	var n, other uint32
	var name string
	match := func(format string, args ...any) bool {
		found, err := fmt.Sscanf(line, format, args...)
		return err == nil && found == len(args) && strings.Count(line, " ") == strings.Count(format, " ")
	}
	index := func() (i interface_types.InterfaceIndex) {
		i, err = s.named(name)
		return i
	}
	switch {
	case line == "":
		return nil, nil, nil
	case match("create bridge-domain %d", &n):
		return &l2.BridgeDomainAddDelV2{IsAdd: true, BdID: n, Flood: true, UuFlood: true, Forward: true, Learn: true}, &l2.BridgeDomainAddDelV2Reply{}, nil
	case match("ip table add %d", &n):
		return &ip.IPTableAddDel{IsAdd: true, Table: ip.IPTable{TableID: n}}, &ip.IPTableAddDelReply{}, nil
	case match("ip6 table add %d", &n):
		return &ip.IPTableAddDel{IsAdd: true, Table: ip.IPTable{TableID: n, IsIP6: true}}, &ip.IPTableAddDelReply{}, nil
	case match("create memif socket id %d filename %s", &n, &name):
		return &binmemif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: n, SocketFilename: name}, &binmemif.MemifSocketFilenameAddDelV2Reply{}, nil
	case match("create interface memif id %d socket-id %d master", &n, &other):
		return &binmemif.MemifCreateV2{ID: n, SocketID: other}, &binmemif.MemifCreateV2Reply{}, nil
	case match("set interface state %s up", &name):
		return &interfaces.SwInterfaceSetFlags{SwIfIndex: index(), Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP}, &interfaces.SwInterfaceSetFlagsReply{}, err
	case match("set interface l2 bridge %s %d", &name, &n):
		return &l2.SwInterfaceSetL2Bridge{RxSwIfIndex: index(), BdID: n, Enable: true}, &l2.SwInterfaceSetL2BridgeReply{}, err
	}
	return nil, nil, errors.New("the stand-in does not know the command")
}

// named is the index of the interface with a name.
func (s *Server) named(name string) (interface_types.InterfaceIndex, error) {
	s.vswitch.mu.Lock()
	defer s.vswitch.mu.Unlock()
	for index, i := range s.vswitch.interfaces {
		if i.name == name {
			return interface_types.InterfaceIndex(index), nil
		}
	}
	return 0, fmt.Errorf("no interface %s", name)
}
