package vppmemif

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// state is the record of an attachment: all that Detach needs, names and none of VPP's
// numbers.
type state struct {
	API           string  `json:"api"`
	Tag           string  `json:"tag"`
	Role          string  `json:"role"` // of the vswitch's side
	ID            uint32  `json:"id"`   // on the socket
	Socket        string  `json:"socket"`
	Abstract      string  `json:"abstract,omitempty"` // name of an abstract socket; there is no folder then
	Vhost         bool    `json:"vhost,omitempty"`    // a vhost-user interface instead of a memif
	Alone         bool    `json:"alone,omitempty"`    // the socket's name is made from the attachment's
	shareddir.Use         // of a socket in a folder
	DomainTag     string  `json:"domainTag,omitempty"`
	Domain        uint32  `json:"domain,omitempty"` // number that the configuration gives, or the first to try
	DomainOf      maker   `json:"domainOf,omitempty"`
	Uplink        string  `json:"uplink,omitempty"` // VPP's sub-interface of the domain
	VRF           uint32  `json:"vrf,omitempty"`
	Routes        []route `json:"routes,omitempty"` // VPP keeps them when their interface goes
}

// ownsSocket reports whether nobody else has a reason to use the socket: its folder is the
// sandbox's own, and its name is made from the attachment's. An interface on it is the
// attachment's, whatever its tag says.
func (s *state) ownsSocket() bool { return s.Abstract == "" && s.Own && s.Alone }

// name is the interface in words.
func (s *state) name() string {
	if s.Vhost {
		return "vhost-user on socket " + s.Socket
	}
	return fmt.Sprintf("memif %d on socket %s", s.ID, s.Socket)
}

func (s *state) kind() string { return kindOf(s.Vhost) }

func kindOf(vhost bool) string { return either(vhost, "vhost", "memif") }

// path is the socket as results and device-info have it.
func (s *state) path() string {
	if s.Abstract != "" {
		return "@" + s.Abstract // unix(7) writes abstract names so
	}
	return s.Place(s.File)
}

// decide chooses names. It looks at the folder's place, nothing else.
func decide(c *Config, a *delegates.Attachment) (*state, error) {
	s := &state{API: c.APISocket, Tag: tag(a.Owner, a.Sandbox, a.IfName), Role: c.Role, ID: c.ID, Vhost: c.VhostUser, VRF: c.VRF, Routes: c.routes}
	if b := c.BridgeDomain; b != nil {
		s.Domain, s.DomainTag = b.ID, domainTag(a.Owner, b, c.VLAN)
		if b.ID == 0 || c.VLAN != 0 {
			s.Domain = domainID(strings.TrimPrefix(s.DomainTag, ownerTag(a.Owner)+domainMark+"name/"))
		}
		if b.Uplink != "" {
			s.Uplink = fmt.Sprintf("%s.%d", b.Uplink, c.VLAN)
		}
	}
	s.Alone = c.Socket.File == ""
	if c.Socket.Abstract {
		s.Abstract = unique(a)
		if c.Socket.File != "" {
			s.Abstract = c.Socket.File
		}
		s.Socket = "abstract:" + s.Abstract + ",netns_name=" + a.Netns
		if len(s.Socket) > maxSocket {
			return nil, fmt.Errorf("socket %s has %d bytes, at most %d are allowed: shorten %q", s.Socket, len(s.Socket), maxSocket, "socket.file")
		}
		return s, nil
	}
	var inVolume string
	kind := either(s.Vhost, conf.DeviceVhostUser, conf.DeviceMemif)
	device, seen := a.Device.Offered(kind)
	s.Seen = seen
	inVolume, s.Config = shareddir.Names(a, kind, c.dialect)
	s.File = cmp.Or(c.Socket.File, inVolume, socketName(s.kind(), a.Sandbox, a.IfName))
	w := shareddir.Options{
		Base: c.Socket.Dir, Group: c.Socket.Group, Permissions: c.Socket.Permissions, MaxPath: maxSocket, Unseen: c.dialect != nil, Device: device,
		Key: func(name string) string { return c.key("socket." + name) },
	}
	var err error
	if s.Folder, err = shareddir.Choose(w, a, s.File, unique(a)); err != nil {
		return nil, err
	}
	s.Socket = s.Path(s.File)
	return s, nil
}

// decodeState reads the record of an attachment and refuses that of another one: Detach
// removes the objects that it names.
func decodeState(a *delegates.Attachment) (*state, error) {
	s := &state{}
	if err := json.Unmarshal(a.State, s); err != nil {
		return nil, fmt.Errorf("recorded state: %w", err)
	}
	place := s.Abstract != "" && strings.HasPrefix(s.Socket, "abstract:"+s.Abstract+",")
	if s.Abstract == "" {
		place = s.Valid(a.Sandbox, unique(a), formerUnique(a)) && s.Socket == s.Path(s.File)
	}
	domain := s.DomainTag == "" || strings.HasPrefix(s.DomainTag, ownerTag(a.Owner)+domainMark)
	if !filepath.IsAbs(s.API) || s.Tag != tag(a.Owner, a.Sandbox, a.IfName) || !place || !domain {
		return nil, fmt.Errorf("recorded state is not one of this attachment: %.200s", a.State)
	}
	return s, nil
}

// unique names an attachment in few letters. Its tag is enough to derive it.
func unique(a *delegates.Attachment) string { return uniqueOf(a.Owner, a.Sandbox, a.IfName) }

func uniqueOf(owner, sandbox, ifName string) string {
	return "memif-" + digest(owner, sandbox[:min(tagSandbox, len(sandbox))], ifName)
}

// formerUnique is unique in records of a former plexus.
func formerUnique(a *delegates.Attachment) string {
	return "memif-" + digest(a.Owner, a.Sandbox, a.IfName)
}

// socketName is the name of a socket to which the configuration gives none.
func socketName(kind, sandbox, ifName string) string {
	return fmt.Sprintf("%s-%s-%s.sock", kind, shareddir.Short(sandbox), ifName)
}

// The marks of ownership are tags of at most 63 bytes: the plexus that acts, by
// a digest, and the beginning of the container ID, which is a random number.
const (
	tagPrefix  = "plexus/"
	tagSandbox = shareddir.MarkedID // bytes of the container ID in a tag
	domainMark = "bd/"
)

func ownerTag(owner string) string { return tagPrefix + digest(owner)[:6] + "/" }

func tag(owner, sandbox, ifName string) string {
	return ownerTag(owner) + sandbox[:min(tagSandbox, len(sandbox))] + "/" + ifName
}

// parseTag reads a tag of owner's.
func parseTag(owner, tag string) (sandbox, ifName string, ok bool) {
	rest, ours := strings.CutPrefix(tag, ownerTag(owner))
	sandbox, ifName, ok = strings.Cut(rest, "/")
	return sandbox, ifName, ours && ok && sandbox != "" && ifName != ""
}

func domainTag(owner string, b *BridgeDomain, vlan int) string {
	name := "name/" + b.Name
	if b.Name == "" {
		name = fmt.Sprintf("id/%d", b.ID)
	}
	if vlan != 0 {
		name = fmt.Sprintf("v%d/%s", vlan, name)
	}
	return ownerTag(owner) + domainMark + name
}

// isDomainOfVLAN reports whether a tag is that of one VLAN of a domain.
func isDomainOfVLAN(tag string) bool {
	_, name, _ := strings.Cut(tag, "/"+domainMark)
	return strings.HasPrefix(name, "v")
}

// domainID is the number that a name gets, far from those that people choose.
func domainID(name string) uint32 {
	sum := sha256.Sum256([]byte(name))
	return 1<<23 + (uint32(sum[0])<<16|uint32(sum[1])<<8|uint32(sum[2]))&(1<<23-1)
}

func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:6])
}
