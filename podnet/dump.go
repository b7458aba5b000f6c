package podnet

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumps bounds how often a list is asked for.
const dumps = 100

// Dump lists what the kernel has. A list that has changed while it was read, for which
// an IPv6 address suffices that is no longer tentative, is asked for again
// (NLM_F_DUMP_INTR, Linux' Documentation/userspace-api/netlink/intro.rst).
func Dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumps {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
