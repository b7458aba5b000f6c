package delegates

import (
	"fmt"
	"slices"
)

// Unavailable is the error of an endpoint that cannot be reached: no process listens there,
// or none answers. Backends make one for each endpoint. The same request may work
// later.
type Unavailable struct {
	Endpoint string // address, as configurations have it
	Kind     string // of endpoint: "VPP", "OVSDB", "ovs-vswitchd"
	Err      error  // cause
	Hint     string // what an operator should look at
}

func (e *Unavailable) Error() string {
	return fmt.Sprintf("%s at %s is unreachable: %v: %s", e.Kind, e.Endpoint, e.Err, e.Hint)
}

// Unwrap gives the cause.
func (e *Unavailable) Unwrap() error { return e.Err }

// Temporary marks an error that may be gone when the runtime tries again.
func (e *Unavailable) Temporary() bool { return true }

// AllUnavailable returns the unavailable endpoints that an error is about. It returns
// nil for nil, and for an error that has any other error joined with them: an endpoint has
// answered with that one, and it has to be reported.
func AllUnavailable(err error) (all []*Unavailable) {
	for _, cause := range causes(err) {
		away, ok := cause.(*Unavailable) //nolint:errorlint // causes unwraps
		if !ok {
			return nil
		}
		all = append(all, away)
	}
	return all
}

// IsTemporary reports whether an error may be gone when the same is tried again. Joined
// errors are judged one by one: all of them have to be temporary.
func IsTemporary(err error) bool {
	return err != nil && !slices.ContainsFunc(causes(err), func(cause error) bool {
		t, ok := cause.(temporary)
		return !ok || !t.Temporary()
	})
}

type temporary interface{ Temporary() bool }

// causes are the errors at the ends of a tree of errors.Join and fmt.Errorf. One that says
// whether it is temporary is an end.
func causes(err error) (all []error) {
	if _, ok := err.(temporary); ok { //nolint:errorlint // this function unwraps
		return []error{err}
	}
	switch e := err.(type) { //nolint:errorlint // this function unwraps
	case nil:
		return nil
	case interface{ Unwrap() error }:
		if cause := e.Unwrap(); cause != nil {
			return causes(cause)
		}
	case interface{ Unwrap() []error }:
		for _, cause := range e.Unwrap() {
			all = append(all, causes(cause)...)
		}
		return all
	}
	return []error{err}
}
