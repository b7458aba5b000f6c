package sriov

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/file"
)

// Delegate attaches pods to functions of SR-IOV NICs.
type Delegate struct {
	delegates.Base
	log *slog.Logger
}

var _ delegates.Delegate = (*Delegate)(nil)

// New makes the delegate of type sriov.
func New(log *slog.Logger) *Delegate { return &Delegate{log: log} }

// state is what the journal keeps. How the function was before is in its reservation,
// which goes with the node's restart as all settings do.
type state struct {
	PCI string `json:"pci"`
}

func decodeState(raw json.RawMessage) (*state, error) {
	s := &state{}
	if err := json.Unmarshal(raw, s); err != nil || !pciForm.MatchString(s.PCI) {
		return nil, fmt.Errorf("recorded state is not one of this attachment: %.200s", raw)
	}
	return s, nil
}

// host is the node: its sysfs, and its own network namespace.
type host struct {
	sys   sysfs
	links *links
	log   *slog.Logger
}

func (d *Delegate) open() (*host, error) {
	l, err := openLinks("")
	if err != nil {
		return nil, err
	}
	return &host{nodeSysfs, l, d.log}, nil
}

func (h *host) close() { h.links.close() }

// stepsOf returns a context whose steps name the interface in the pod.
func stepsOf(ctx context.Context, ifName string) context.Context {
	return delegates.WithSteps(ctx, func(step string) error { return delegates.Step(ctx, "%s: %s", ifName, step) })
}

// Attach makes the functions the pod's, one after the other.
func (d *Delegate) Attach(ctx context.Context, all []*delegates.Attachment) error {
	h, err := d.open()
	if err != nil {
		return err
	}
	defer h.close()
	for _, a := range all {
		if err := h.attachReserved(stepsOf(ctx, a.IfName), a); err != nil {
			return fmt.Errorf("%s (network %s): %w", a.IfName, a.Name, err)
		}
	}
	return nil
}

// attachReserved makes the function that Prepare has reserved the pod's.
func (h *host) attachReserved(ctx context.Context, a *delegates.Attachment) error {
	s, err := decodeState(a.State)
	if err != nil {
		return err
	}
	release, err := lockFunction(ctx, s.PCI)
	if err != nil {
		return err
	}
	defer release()
	want, r, err := reservationOf(a, s.PCI)
	if err != nil {
		return err
	}
	a.Result, err = h.attach(ctx, a, want, r)
	return err
}

// reservationOf is what an attachment asks for, and the reservation of its function.
func reservationOf(a *delegates.Attachment, pci string) (*spec, *reservation, error) {
	want, err := a.Network.(*network).spec(a.Args)
	if err != nil {
		return nil, nil, err
	}
	r, err := readReservation(pci)
	if err == nil && !r.of(a) {
		err = fmt.Errorf("%s is not reserved for this pod any more: it was reserved for another pod meanwhile, or was given back", pci)
	}
	return want, r, err
}

// Detach brings home the functions that are still the attachments'.
func (d *Delegate) Detach(ctx context.Context, all []*delegates.Attachment) []error {
	errs := make([]error, len(all))
	for i, a := range all {
		errs[i] = d.detach(ctx, a)
	}
	return errs
}

func (d *Delegate) detach(ctx context.Context, a *delegates.Attachment) error {
	if a.State == nil {
		keep := func(sandbox, ifName string) bool { return sandbox != a.Sandbox || ifName != a.IfName }
		return errors.Join(d.Sweep(ctx, a.Owner, nil, a.Bounds, keep)...)
	}
	s, err := decodeState(a.State)
	if err != nil {
		return err
	}
	h, err := d.open()
	if err != nil {
		return err
	}
	defer h.close()
	return h.giveBack(ctx, s.PCI, a)
}

// giveBack brings a function home if it is reserved for the attachment.
func (h *host) giveBack(ctx context.Context, pci string, a *delegates.Attachment) error {
	release, err := lockFunction(ctx, pci)
	if err != nil {
		return err
	}
	defer release()
	r, err := readReservation(pci)
	if err != nil || !r.of(a) {
		return err
	}
	if err := h.restore(stepsOf(ctx, a.IfName), r, a.Netns); err != nil {
		return fmt.Errorf("bring %s home: %w", pci, err)
	}
	return r.remove()
}

// Sweep brings home what is reserved for owner and is not to be kept. A reservation
// knows its namespace.
func (d *Delegate) Sweep(ctx context.Context, owner string, _ []string, _ conf.Bounds, keep func(sandbox, ifName string) bool) []error {
	h, err := d.open()
	if err != nil {
		return []error{err}
	}
	defer h.close()
	halves, err := reservations(".json" + file.Ending)
	errs := []error{err}
	for _, pci := range halves {
		errs = append(errs, removeHalf(ctx, pci))
	}
	whole, err := reservations(".json")
	errs = append(errs, err)
	for _, pci := range whole {
		r, err := readReservation(pci)
		if r != nil && r.Owner == owner && !keep(r.Sandbox, r.IfName) {
			err = h.giveBack(ctx, pci, &delegates.Attachment{Owner: r.Owner, Sandbox: r.Sandbox, IfName: r.IfName})
		}
		errs = append(errs, err)
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}
