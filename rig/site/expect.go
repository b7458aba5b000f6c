package site

import (
	"errors"
	"strings"
	"testing"
)

// Says wants an error with a CNI code and message that has all the parts.
func Says(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("it succeeded, want an error that says %q", parts)
		return
	}
	var answer *Error
	if !errors.As(err, &answer) {
		t.Errorf("no CNI error: %v", err)
		return
	}
	if answer.Code == 0 {
		t.Errorf("error without a code: %v", err)
	}
	for _, part := range parts {
		if !strings.Contains(answer.Msg+answer.Details, part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

// HasCode wants a CNI error with that code.
func HasCode(t testing.TB, err error, code uint) {
	t.Helper()
	var answer *Error
	if !errors.As(err, &answer) || answer.Code != code {
		t.Errorf("error %v, want one with code %d", err, code)
	}
}

// NoPanic wants that plexus wrote no stack trace to standard error.
func NoPanic(t testing.TB, stderr string) {
	t.Helper()
	if strings.Contains(stderr, "panic") || strings.Contains(stderr, "goroutine ") {
		t.Errorf("plexus panicked:\n%s", stderr)
	}
}
