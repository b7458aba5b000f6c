package delegates

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"
)

// CNI error codes that plexus uses (CNI specification 1.1.0, section "Error").
const (
	CodeUnknownContainer = types.ErrUnknownContainer
	CodeEnvironment      = types.ErrInvalidEnvironmentVariables
	CodeConfig           = types.ErrInvalidNetworkConfig
	CodeTryAgain         = types.ErrTryAgainLater
	CodeNotReady         = 50 // STATUS: cannot serve ADD
)

// Error is an error with the CNI code that the runtime is to see.
type Error struct {
	Code uint
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Coded gives an error its CNI code: the code of a plugin's own error stays, and a
// temporary error gets CodeTryAgain. nil stays nil.
func Coded(code uint, err error) error {
	if err == nil {
		return nil
	}
	var inner *types.Error
	if errors.As(err, &inner) {
		return err
	}
	if IsTemporary(err) {
		code = CodeTryAgain
	}
	return &Error{code, err}
}
