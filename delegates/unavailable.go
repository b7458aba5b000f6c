package delegates

import "fmt"

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
func AllUnavailable(err error) []*Unavailable {
	var all []*Unavailable
	only := everyCause(err, func(cause error) (judged, ok bool) {
		away, ok := cause.(*Unavailable) //nolint:errorlint // everyCause unwraps
		if ok {
			all = append(all, away)
		}
		return ok, ok
	})
	if !only {
		return nil
	}
	return all
}

// IsTemporary reports whether an error may be gone when the same is tried again. Joined
// errors are judged one by one: all of them have to be temporary.
func IsTemporary(err error) bool {
	return err != nil && everyCause(err, func(cause error) (judged, ok bool) {
		temporary, judged := cause.(interface{ Temporary() bool })
		return judged, judged && temporary.Temporary()
	})
}

// everyCause reports whether judge accepts every error of a tree of errors.Join and fmt.Errorf.
// It does not look below an error that judge knows; it does not accept an error without a
// cause that judge does not know.
func everyCause(err error, judge func(error) (judged, ok bool)) bool {
	if err == nil {
		return true
	}
	if judged, ok := judge(err); judged {
		return ok
	}
	switch e := err.(type) { //nolint:errorlint // this function unwraps
	case interface{ Unwrap() error }:
		return e.Unwrap() != nil && everyCause(e.Unwrap(), judge)
	case interface{ Unwrap() []error }:
		for _, cause := range e.Unwrap() {
			if !everyCause(cause, judge) {
				return false
			}
		}
		return true
	}
	return false
}
