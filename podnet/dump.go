package podnet

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumps bounds how often a list is requested.
const dumps = 100

// Dump reads a list from the kernel. It reads the list again when the kernel has changed it
// meanwhile, for instance when an IPv6 address ceased to be tentative (NLM_F_DUMP_INTR, Linux' Documentation/userspace-api/netlink/intro.rst).
func Dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumps {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
