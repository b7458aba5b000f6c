package sriov

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/lock"
	"github.com/plexus-cni/plexus/netns"
)

// claimDir has the claims. They go when the node restarts, and so do all settings of
// VFs.
const claimDir = "/run/plexus/vf"

// claim says whose a function is and how it was found. There is at most one for
// a function, and it is there from before the first change until everything is
// as it was.
type claim struct {
	PCI     string `json:"pci"`
	Owner   string `json:"owner"` // conf.Attachment.Owner
	Sandbox string `json:"sandbox"`
	IfName  string `json:"ifName"`
	Netns   string `json:"netns"`
	NetnsID string `json:"netnsID"`
	Found   found  `json:"found"`
	// Baseline are the settings that it gets instead of those found.
	Baseline vfInfo `json:"baseline"`
	Left     bool   `json:"left,omitempty"` // taken over: it may not be as it was found
	Told     bool   `json:"told,omitempty"` // the PF has told the VF an address that is not to stay
}

// found is a function as it was before anything was changed.
type found struct {
	Incarnation uint64           `json:"incarnation"` // of the function, see function
	Driver      string           `json:"driver,omitempty"`
	Override    string           `json:"override,omitempty"` // driver_override
	Links       []foundLink      `json:"links,omitempty"`
	VF          *vfInfo          `json:"vf,omitempty"`   // nil for a whole PF
	GUID        net.HardwareAddr `json:"guid,omitempty"` // of an InfiniBand VF
}

// foundLink is an interface of the function.
type foundLink struct {
	Name     string           `json:"name"`
	AltNames []string         `json:"altNames,omitempty"`
	MAC      net.HardwareAddr `json:"mac"`
	PermMAC  net.HardwareAddr `json:"permMAC,omitempty"` // that the driver was told when it started
	MTU      int              `json:"mtu"`
	Up       bool             `json:"up,omitempty"`
	Promisc  bool             `json:"promisc,omitempty"`
	AllMulti bool             `json:"allMulti,omitempty"`
}

// home is what the VF is to be on its PF when nobody has it.
func (c *claim) home() vfInfo {
	h := *c.Found.VF
	h.settings = h.settings.with(c.Baseline.settings)
	if c.Baseline.MAC != nil {
		h.MAC = c.Baseline.MAC
	}
	return h
}

func (c *claim) of(a conf.Attachment) bool {
	return c != nil && c.Owner == a.Owner && c.Sandbox == a.Sandbox && c.IfName == a.IfName
}

// alive reports whether the owner's namespace is still there: then its DEL is
// to come, and the function is not to be had.
func (c *claim) alive() bool {
	id := netns.ID(c.Netns)
	return id != "" && id == c.NetnsID
}

// lockFunction lets one request at a time work on a function.
func lockFunction(ctx context.Context, pci string) (release func(), err error) {
	return lock.Take(ctx, "pci-"+pci, "PCI function "+pci)
}

// lockPF lets one request at a time pick a VF of a PF.
func lockPF(ctx context.Context, pci string) (release func(), err error) {
	return lock.Take(ctx, "pf-"+pci, "VFs of PF "+pci)
}

// lockNames lets one request at a time make interfaces on the node: a driver
// that starts gives its own the first name that is free, which may be that of
// another one that is about to come home.
func lockNames(ctx context.Context) (release func(), err error) {
	return lock.Take(ctx, "names", "names of interfaces")
}

func claimFile(pci string) string { return filepath.Join(claimDir, pci+".json") }

// readClaim returns nil when nobody has claimed the function.
func readClaim(pci string) (*claim, error) {
	data, err := os.ReadFile(claimFile(pci))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claim of %s: %w", pci, err)
	}
	c := &claim{}
	if err := json.Unmarshal(data, c); err != nil || c.PCI != pci || c.Sandbox == "" || c.Found.Incarnation == 0 {
		return nil, fmt.Errorf("claim of %s: %s is damaged: if no pod has the function, remove the file", pci, claimFile(pci))
	}
	return c, nil
}

// write puts the claim in place, whole or not at all.
func (c *claim) write() error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	err = os.MkdirAll(claimDir, 0o700)
	fresh := claimFile(c.PCI) + ".new"
	if err == nil {
		err = os.WriteFile(fresh, data, 0o600)
	}
	if err == nil {
		err = os.Rename(fresh, claimFile(c.PCI))
	}
	if err != nil {
		return fmt.Errorf("claim %s: %w", c.PCI, err)
	}
	return nil
}

func (c *claim) remove() error {
	for _, file := range []string{claimFile(c.PCI) + ".new", claimFile(c.PCI)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("claim of %s: %w", c.PCI, err)
		}
	}
	return nil
}

// removeHalves removes claims that were never put in place, as their writer was
// killed.
func removeHalves(ctx context.Context) error {
	files, err := filepath.Glob(claimFile("*") + ".new")
	errs := []error{err}
	for _, file := range files {
		release, err := lockFunction(ctx, strings.TrimSuffix(filepath.Base(file), ".json.new"))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		release()
	}
	return errors.Join(errs...)
}

// claims are all claims of the node that can be read, with an error for the
// others.
func claims() ([]*claim, error) {
	entries, err := os.ReadDir(claimDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	var all []*claim
	var errs []error
	for _, e := range entries {
		pci, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !pciForm.MatchString(pci) {
			continue
		}
		c, err := readClaim(pci)
		if c != nil {
			all = append(all, c)
		}
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}
