package plugin

import (
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/delegates/userspace"
)

// Table has the built-ins by plugin type. Type userspace has one for each of its
// engines: Userspace(engine).
type Table map[string]delegates.Delegate

// typeUserspace is the plugin type of userspace-cni. A configuration names the backend by its engine.
const typeUserspace = "userspace"

// Userspace is the name of the built-in of an engine of userspace-cni.
func Userspace(engine string) string { return typeUserspace + " " + engine }

// Has reports whether a plugin type is built in.
func (t Table) Has(typ string) bool {
	return t[typ] != nil || typ == typeUserspace && t[Userspace(userspace.EngineOVS)] != nil
}

// Of returns the built-in of a plugin configuration and its name in the table. It fails when
// the configuration names an engine that the table does not have.
func (t Table) Of(typ string, config []byte) (name string, d delegates.Delegate, err error) {
	if t[typ] != nil || !t.Has(typ) {
		return typ, t[typ], nil
	}
	engine, err := userspace.Engine(config)
	if err != nil {
		return typ, nil, err
	}
	return Userspace(engine), t[Userspace(engine)], nil
}
