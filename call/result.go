package call

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// versionOf is the CNI version that a configuration names.
func versionOf(stdin []byte) string {
	var head struct {
		CNIVersion string `json:"cniVersion"`
	}
	_ = json.Unmarshal(stdin, &head) // conf and the engine say what is wrong with it
	return head.CNIVersion
}

// asVersion is a result in the version that the request names.
func asVersion(r *types100.Result, cniVersion string) (any, error) {
	if cniVersion == "" {
		cniVersion = "0.1.0" // CNI specification 0.2.0: the version of a configuration that names none
	}
	if knows, err := version.GreaterThanOrEqualTo(cniVersion, "1.1.0"); err == nil && !knows {
		r = before110(r)
	}
	out, err := r.GetAsVersion(cniVersion)
	if err != nil {
		return nil, &delegates.Error{Code: types.ErrIncompatibleCNIVersion, Err: err}
	}
	return out, nil
}

// before110 is a result without what CNI 1.1.0 has added; the library leaves it
// in one of 1.0.0.
func before110(r *types100.Result) *types100.Result {
	old := *r
	old.Interfaces, old.Routes = nil, nil
	for _, i := range r.Interfaces {
		old.Interfaces = append(old.Interfaces, &types100.Interface{Name: i.Name, Mac: i.Mac, Sandbox: i.Sandbox})
	}
	for _, route := range r.Routes {
		old.Routes = append(old.Routes, &types.Route{Dst: route.Dst, GW: route.GW})
	}
	return &old
}

// answerError is an error as the runtime reads it (CNI specification 1.1.0,
// section 5, "Error").
type answerError struct {
	CNIVersion string `json:"cniVersion,omitempty"`
	types.Error
}

// WireError converts an error, once. Its code is that of the first cause that
// has one.
func WireError(err error, cniVersion string) *answerError {
	out := &answerError{cniVersion, types.Error{Code: types.ErrInternal, Msg: err.Error()}}
	var mine *delegates.Error
	var plugin *types.Error
	var refusal *conf.Refusal
	switch {
	case errors.As(err, &mine):
		out.Code = mine.Code
	case errors.As(err, &plugin):
		out.Code, out.Details = plugin.Code, plugin.Details
	case errors.As(err, &refusal):
		out.Code = types.ErrInvalidNetworkConfig
	case errors.Is(err, context.Canceled), delegates.IsTemporary(err): // a deadline that has passed is temporary, too
		out.Code = types.ErrTryAgainLater
	}
	return out
}

func environmentError(format string, args ...any) error {
	return &delegates.Error{Code: types.ErrInvalidEnvironmentVariables, Err: fmt.Errorf(format, args...)}
}

func configError(err error) error {
	return &delegates.Error{Code: types.ErrInvalidNetworkConfig, Err: err}
}
