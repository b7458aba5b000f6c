package delegates

import (
	"fmt"

	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// Dialect is another plugin's form of a configuration, in which the user wrote what the
// backend gets in its own keys. nil is the backend's own form.
type Dialect struct {
	Plugin string            // type of the other plugin
	Keys   map[string]string // the other plugin's name of a key of the backend, where it differs
	// Document is what a container of the other plugin reads beside the socket. ipam is
	// nil where the attachment has no addresses.
	Document func(a *Attachment, socketFile string, ipam *types100.Result) ([]byte, error)
	// Annotations are those of Description, from the attachment's result.
	Annotations func(a *Attachment, socketFile string) (map[string]string, error)
}

// Key is the user's name of a key of the backend.
func (d *Dialect) Key(name string) string {
	if d != nil && d.Keys[name] != "" {
		return d.Keys[name]
	}
	return name
}

// Object names a configuration in errors. own is the backend's type.
func (d *Dialect) Object(network, own string) string {
	if d != nil {
		own = d.Plugin
	}
	return fmt.Sprintf("network %s: %s", network, own)
}
