package sriov

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/file"
	"github.com/plexus-cni/plexus/lock"
	"github.com/plexus-cni/plexus/podnet"
)

// reservationDir has the reservations. They go when the node restarts, and so do all
// settings of VFs. Former versions wrote them too, and called them claims: the folder and
// the keys of the files stay, so that each version undoes what another one has made.
const reservationDir = "/run/plexus/vf"

// reservation says whose a function is and how it was before. There is at most one for a
// function, and it is there from before the first change until everything is as it was.
type reservation struct {
	PCI      string   `json:"pci"`
	Owner    string   `json:"owner"` // delegates.Attachment.Owner
	Sandbox  string   `json:"sandbox"`
	IfName   string   `json:"ifName"`
	Netns    string   `json:"netns"`
	NetnsID  string   `json:"netnsID"`
	Original snapshot `json:"found"`
	// Baseline are the settings that it gets instead of its original ones.
	Baseline  vfInfo           `json:"baseline"`
	MAC       net.HardwareAddr `json:"mac,omitempty"`  // that its pod asks for
	TakenOver bool             `json:"left,omitempty"` // from a pod that is gone: it may not be as it was before
	MACOnPF   bool             `json:"told,omitempty"` // the PF has set an address of the VF that is not to stay
}

// home is what the VF is to be on its PF when nobody has it.
func (r *reservation) home() vfInfo {
	h := *r.Original.VF
	h.settings = h.settings.with(r.Baseline.settings)
	if r.Baseline.MAC != nil {
		h.MAC = r.Baseline.MAC
	}
	return h
}

func (r *reservation) of(a *delegates.Attachment) bool {
	return r != nil && r.Owner == a.Owner && r.Sandbox == a.Sandbox && r.IfName == a.IfName
}

// live is a path of the owner's namespace, empty when it is gone. While the namespace is there
// its DEL is to come, and the function is not to be had. The path of ADD may have gone before
// the namespace, as that of a process does.
func (r *reservation) live() string {
	if r.NetnsID == "" {
		return ""
	}
	return cmp.Or(podnet.Live(r.NetnsID, r.Netns), podnet.Search(r.NetnsID))
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

func reservationFile(pci string) string { return filepath.Join(reservationDir, pci+".json") }

// readReservation returns nil when the function is not reserved.
func readReservation(pci string) (*reservation, error) {
	data, err := os.ReadFile(reservationFile(pci))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reservation of %s: %w", pci, err)
	}
	r := &reservation{}
	if err := json.Unmarshal(data, r); err != nil || r.PCI != pci || r.Sandbox == "" || r.Original.Incarnation == 0 {
		return nil, fmt.Errorf("reservation of %s: %s is damaged: if no pod has the function, remove the file", pci, reservationFile(pci))
	}
	return r, nil
}

// write puts the reservation in place, whole or not at all.
func (r *reservation) write() error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	err = os.MkdirAll(reservationDir, 0o700)
	if err == nil {
		err = file.Replacement{Path: reservationFile(r.PCI), Mode: 0o600, Volatile: true}.Write(bytes.NewReader(data))
	}
	if err != nil {
		return fmt.Errorf("reserve %s: %w", r.PCI, err)
	}
	return nil
}

func (r *reservation) remove() error {
	for _, name := range []string{reservationFile(r.PCI) + file.Ending, reservationFile(r.PCI)} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("reservation of %s: %w", r.PCI, err)
		}
	}
	return nil
}

// removeHalf removes a reservation that was never put in place, as its writer was killed.
func removeHalf(ctx context.Context, pci string) error {
	release, err := lockFunction(ctx, pci)
	if err != nil {
		return err
	}
	defer release()
	if err := os.Remove(reservationFile(pci) + file.Ending); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// reservations are the functions of which there is a file with an ending: those that are
// reserved, or those of which there is half a reservation.
func reservations(ending string) (all []string, err error) {
	entries, err := os.ReadDir(reservationDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reservations: %w", err)
	}
	for _, e := range entries {
		if pci, ok := strings.CutSuffix(e.Name(), ending); ok && pciForm.MatchString(pci) {
			all = append(all, pci)
		}
	}
	return all, nil
}
